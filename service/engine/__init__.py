"""Models: manifests, versions, queue, batches, workers. Jobs are arrays with a cost in seconds; it knows no audio."""
