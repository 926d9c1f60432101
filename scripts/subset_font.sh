#!/bin/sh
# Rebuilds assets/fonts/DejaVuSans-Bold-subset.ttf from Debian's fonts-dejavu-core with fontTools'
# pyftsubset: Latin, Greek and Cyrillic letters, general punctuation, no hinting (labels are drawn
# with FreeType's light rendering).
set -eu
cd "$(dirname "$0")/.."
source=${1:-/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf}
pyftsubset "$source" \
  --output-file=assets/fonts/DejaVuSans-Bold-subset.ttf \
  --unicodes=U+0020-007E,U+00A0-017F,U+0386-03CE,U+0400-045F,U+2010-2026,U+FFFD \
  --layout-features= --no-hinting --drop-tables+=FFTM,kern,GDEF,GPOS,GSUB --notdef-outline
ls -l assets/fonts/DejaVuSans-Bold-subset.ttf
