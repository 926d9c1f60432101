#!/usr/bin/env bash
# Builds a small static FFmpeg for rfseg's video module, for machines whose distribution has none, or none with NVIDIA's
# decoders: one rfseg_libav.so that needs nothing but libc, libstdc++ and, for overlays in H.264, libx264 (and for --decoder nvdec
# what the NVIDIA driver brings). Usage: scripts/build_ffmpeg.sh [PREFIX]   (default build/ffmpeg); then
#   RFSEG_CMAKE_ARGS=-DRFSEG_FFMPEG=PREFIX scripts/build.sh
# The source is Debian 12's, with its security fixes, by apt-get source (no root needed, no deb-src line either).
# Needed: gcc, make, pkg-config, nasm. Used where installed: libx264-dev (else overlays are MPEG-4 Part 2; linked as a
# shared library, since Debian's static one cannot go into a module), libffmpeg-nvenc-dev (headers of the NVIDIA driver;
# without it no NVDEC). Environment:
#   RFSEG_FFMPEG_SOURCE  an unpacked FFmpeg source folder, 5.1 to 7.1, instead of Debian's
#   RFSEG_DAV1D=yes      AV1 on the CPU through libdav1d (libdav1d-dev), a shared library that must be there at run time
#   RFSEG_TLS=yes        https and rtsps through GnuTLS (libgnutls28-dev), likewise
#   RFSEG_JOBS           compiler processes, default all processors
# shellcheck disable=SC2054  # commas separate what FFmpeg's configure enables
set -euo pipefail
[[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n '2,/^set -/p' "$0" | grep '^#'; exit 0; }
cd "$(dirname "$0")/.."

prefix="$(realpath -m "${1:-build/ffmpeg}")"
jobs="${RFSEG_JOBS:-$(nproc)}"
work="$prefix/work"
mkdir -p "$work"
for tool in gcc make pkg-config nasm; do
  command -v "$tool" >/dev/null || { echo "build_ffmpeg.sh: $tool is missing (apt-get install $tool)" >&2; exit 1; }
done

fetch_source() {
  local key=/usr/share/keyrings/debian-archive-keyring.gpg
  [[ -f $key ]] || { echo "build_ffmpeg.sh: $key is missing (apt-get install debian-archive-keyring), or name a" \
                          "source folder in RFSEG_FFMPEG_SOURCE" >&2; exit 1; }
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache"
  printf 'deb-src [signed-by=%s] http://deb.debian.org/%s main\n' "$key" "debian bookworm" \
    "$key" "debian-security bookworm-security" >"$work/apt/sources.list"
  local options=(-o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
                 -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=)
  apt-get "${options[@]}" update -qq
  (cd "$work" && apt-get "${options[@]}" source --download-only -qq ffmpeg)
  # dpkg-source is not everywhere; Debian's own patches concern its packaging and documentation.
  mkdir "$work/source.new"
  tar xf "$work"/ffmpeg_*.orig.tar.xz -C "$work/source.new" --strip-components=1
  mv "$work/source.new" "$work/source"
}

source="${RFSEG_FFMPEG_SOURCE:-$work/source}"
if [[ -n "${RFSEG_FFMPEG_SOURCE:-}" ]]; then
  [[ -x "$source/configure" ]] || { echo "RFSEG_FFMPEG_SOURCE=$source: no FFmpeg source" >&2; exit 1; }
  source="$(realpath "$source")"
elif [[ ! -x "$source/configure" ]]; then
  fetch_source
fi

options=(
  --disable-autodetect --disable-everything --disable-programs --disable-doc --disable-debug --enable-pic
  --disable-avdevice --disable-avfilter --disable-swresample --disable-postproc --enable-network
  --enable-decoder=h264,hevc,vp8,vp9,av1,mpeg1video,mpeg2video,mpeg4,h263,msmpeg4v2,msmpeg4v3,mjpeg,vc1,wmv3,wmv2,wmv1,flv
  --enable-decoder=theora,prores,ffv1,huffyuv,dvvideo,rawvideo,gif,png,svq3
  --enable-parser=h264,hevc,vp8,vp9,av1,mpegvideo,mpeg4video,h263,mjpeg,vc1,gif,png
  --enable-demuxer=mov,matroska,mpegts,mpegps,avi,flv,asf,ogg,gif,ivf,obu,h264,hevc,m4v,mpegvideo,mjpeg,mpjpeg,dv,nut
  --enable-demuxer=yuv4mpegpipe,rtsp,rtp,sdp,hls
  --enable-demuxer=tty,image2,image_jpeg_pipe,image_png_pipe  # to say what a file is that is no video
  --enable-protocol=file,http,tcp,udp,rtp,crypto,data,httpproxy
  --enable-bsf=h264_mp4toannexb,hevc_mp4toannexb,vp9_superframe_split,vp9_superframe,av1_frame_split,extract_extradata
  --enable-bsf=mpeg4_unpack_bframes
  --enable-muxer=mp4,mpegts,mjpeg,mpjpeg --enable-encoder=mpeg4,mjpeg --enable-swscale
)
says=()
if pkg-config --exists x264; then
  options+=(--enable-gpl --enable-libx264 --enable-encoder=libx264)
  says+=("H.264 encoding by libx264 (GPL)")
fi
if pkg-config --exists ffnvcodec; then
  options+=(--enable-ffnvcodec --enable-cuda --enable-cuvid --enable-nvdec
            --enable-hwaccel=h264_nvdec,hevc_nvdec,vp8_nvdec,vp9_nvdec,av1_nvdec,mpeg1_nvdec,mpeg2_nvdec,mpeg4_nvdec,vc1_nvdec,wmv3_nvdec)
  says+=("NVDEC")
fi
[[ "${RFSEG_DAV1D:-}" != yes ]] || { options+=(--enable-libdav1d --enable-decoder=libdav1d); says+=("libdav1d"); }
[[ "${RFSEG_TLS:-}" != yes ]] || { options+=(--enable-gnutls --enable-protocol=tls,https); says+=("GnuTLS"); }

mkdir -p "$work/build"
cd "$work/build"
"$source/configure" --prefix="$prefix" --pkg-config-flags=--static "${options[@]}" >configure.log ||
  { tail -n 5 configure.log >&2; exit 1; }
make -j"$jobs" >make.log 2>&1 || { tail -n 20 make.log >&2; exit 1; }
make install >install.log
echo "FFmpeg $(cat "$source/RELEASE" 2>/dev/null) in $prefix: ${says[*]:-no H.264 encoder, no NVDEC}"
