"""Makes model folders of what others bring. Nothing in the service imports this but the command line."""
