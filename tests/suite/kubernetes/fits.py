"""Says what about a manifest (JSON on standard input) does not fit the schemas of each Kubernetes version given."""
import json
import sys

import kubernetes_validate

manifest = json.load(sys.stdin)
for version in sys.argv[1:]:
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        sys.exit(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
