"""`python -m service` is `earmark`."""

from service.cli import main

raise SystemExit(main())
