"""Prints the documents of YAML files as one JSON list of [file, document]."""
import json
import sys

import yaml

documents = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        documents += [[path, document] for document in yaml.safe_load_all(file)]
json.dump(documents, sys.stdout)
