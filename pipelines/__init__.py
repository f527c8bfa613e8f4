"""The pipeline, one verb a file: prepare, train, evaluate, export, recommend, retrain."""
