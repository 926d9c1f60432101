#!/usr/bin/env bash
# Installs the Debian packages that building rfseg needs, where any is missing.
# Usage: scripts/install_deps.sh [--dev]   (--dev adds the formatter, the linter, doxygen and
# the RTSP server of a test)
set -euo pipefail
[[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n '2,/^set -/p' "$0" | grep '^#'; exit 0; }

# ocl-icd-opencl-dev: Debian's libdnnl-dev only recommends it, but its CMake package does not load without.
packages=(g++ cmake ninja-build pkg-config libdnnl-dev ocl-icd-opencl-dev libfmt-dev nlohmann-json3-dev libcli11-dev
  libgtest-dev libbenchmark-dev libjpeg62-turbo-dev libpng-dev libwebp-dev libtiff-dev
  libfreetype-dev libcurl4-openssl-dev libssl-dev libavcodec-dev libavdevice-dev libavformat-dev
  libavutil-dev libswscale-dev)
if [[ "${1:-}" == "--dev" ]]; then
  packages+=(clang-format clang-tidy doxygen python3-gi gir1.2-gst-rtsp-server-1.0
    gstreamer1.0-plugins-good gstreamer1.0-plugins-bad)
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ "$state" == ii* ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "rfseg is tested on Debian 12. Install what stands for these packages: ${missing[*]}" >&2
  exit 1
fi
run=()
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "These packages are missing and you are not root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  run=(sudo)
fi
echo "Installing: ${missing[*]}"
"${run[@]}" apt-get update -qq
"${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
