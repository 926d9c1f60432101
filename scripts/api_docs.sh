#!/usr/bin/env bash
# Writes the API reference to build/api/html. Needs doxygen (scripts/install_deps.sh --dev).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/api
doxygen docs/Doxyfile
echo "build/api/html/index.html"
