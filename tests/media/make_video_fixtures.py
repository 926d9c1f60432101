#!/usr/bin/env python3
"""Writes the tiny videos of tests/media/video/ and goldens.txt: what the ffmpeg program decodes.

    python3 tests/media/make_video_fixtures.py      (needs ffmpeg 5.1 with libx264, libx265, libvpx)

A line of goldens.txt: file, width and height as shown, output format, frames, FNV-1a-64 of all
frames' tightly packed planes, and the presentation times from the start of the stream.
"""

import json
import os
import struct
import subprocess

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "video")
SWS = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
EXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
BT601 = ["-colorspace", "smpte170m", "-color_primaries", "smpte170m", "-color_trc", "smpte170m",
         "-color_range", "tv"]


def ffmpeg(*arguments, data=None):
    return subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True, input=data,
                          stdout=subprocess.PIPE).stdout


def source(size, frames, rate=25):
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration=100",
            "-frames:v", str(frames)]


def x264(*more, crf=30):
    return ["-c:v", "libx264", "-preset", "slow", "-threads", "1", "-crf", str(crf),
            "-x264-params", ":".join(["keyint=8", "min-keyint=8", "scenecut=0", *more])]


def path(name):
    return os.path.join(HERE, name)


def patch_matrix(source_name, name, a, b, c, d):
    """Copies an MP4 with another display matrix (x' = a x + c y, y' = b x + d y)."""
    with open(path(source_name), "rb") as file:
        data = bytearray(file.read())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version 0
    matrix = [a, b, 0, c, d, 0, 0, 0]
    data[start:start + 36] = struct.pack(">9i", *[v << 16 for v in matrix], 1 << 30)
    with open(path(name), "wb") as file:
        file.write(data)


def make_videos():
    os.makedirs(HERE, exist_ok=True)
    ffmpeg(*source("96x64", 24), *x264("bframes=2"), *BT601, "-pix_fmt", "yuv420p", *EXACT,
           path("plain.mp4"))
    ffmpeg(*source("46x34", 6), *x264(crf=36), "-pix_fmt", "yuv420p", *EXACT, path("upright.mp4"))
    for name, matrix in {"turn_90.mp4": (0, 1, -1, 0), "turn_180.mp4": (-1, 0, 0, -1),
                         "turn_270.mp4": (0, -1, 1, 0), "mirrored.mp4": (-1, 0, 0, 1)}.items():
        patch_matrix("upright.mp4", name, *matrix)
    os.remove(path("upright.mp4"))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=100", "-frames:v", "10",
           "-vf", "settb=1/1000,setpts='(N*0.04+0.01*mod(N*N,3)+0.5*gt(N,5))/TB'", "-vsync", "passthrough",
           "-enc_time_base", "1/1000", *x264("bframes=2"), "-video_track_timescale", "1000",
           *EXACT, "-pix_fmt", "yuv420p", path("variable_rate.mp4"))
    ffmpeg(*source("176x100", 6), "-vf", "scale=175:99", "-c:v", "libvpx-vp9", "-crf", "50", "-b:v", "0", "-threads", "1",
           *EXACT, "-pix_fmt", "yuv420p", path("odd.webm"))
    ffmpeg("-i", path("plain.mp4"), "-frames:v", "20", "-c:v", "libvpx", "-crf", "50", "-b:v",
           "40k", "-auto-alt-ref", "1", "-lag-in-frames", "16", "-arnr-maxframes", "5",
           "-threads", "1", *EXACT, path("vp8.webm"))
    ffmpeg(*source("96x64", 6), *x264(), "-pix_fmt", "yuv420p10le", *EXACT, path("ten_bit.mkv"))
    ffmpeg(*source("98x66", 4), "-c:v", "libx265", "-preset", "fast", "-x265-params",
           "crf=34:log-level=none:pools=1:frame-threads=1:info=0", "-pix_fmt", "yuv420p10le",
           *EXACT, path("hevc_ten_bit.mp4"))
    ffmpeg(*source("96x64", 4), "-vf", "scale=out_range=pc:out_color_matrix=bt709,format=yuvj420p",
           *x264(), "-colorspace", "bt709", "-color_range", "pc", *EXACT, path("full_range.mp4"))
    ffmpeg(*source("64x48", 3), "-c:v", "mjpeg", "-q:v", "20", "-pix_fmt", "yuvj422p", *EXACT,
           path("mjpeg_422.avi"))
    ffmpeg(*source("64x48", 3), *x264(), "-pix_fmt", "yuv444p", *BT601, *EXACT,
           path("yuv_444.mp4"))
    ffmpeg(*source("64x48", 10), "-c:v", "mpeg4", "-bf", "2", "-q:v", "20", "-pix_fmt", "yuv420p",
           *EXACT, path("mpeg4.avi"))
    ffmpeg("-i", path("plain.mp4"), "-c", "copy", "-frames:v", "20", "-mpegts_flags", "+resend_headers",
           *EXACT, path("stream.ts"))
    ffmpeg("-i", path("plain.mp4"), "-c", "copy", *EXACT, path("plain.mkv"))
    # No key picture but the first; a refresh begins every 8 pictures.
    ffmpeg(*source("64x48", 40), *x264("intra-refresh=1", "bframes=0", crf=40), "-pix_fmt", "yuv420p",
           *EXACT, path("intra_refresh.mp4"))
    ffmpeg("-i", path("intra_refresh.mp4"), "-c", "copy", *EXACT, path("intra_refresh.ts"))
    # Of its frames the packets tell decoding times alone.
    ffmpeg(*source("64x48", 48), *x264("bframes=3", "b-adapt=0", crf=45), "-pix_fmt", "yuv420p",
           *EXACT, path("b_frames.avi"))
    ffmpeg(*source("64x48", 24), *x264("bframes=3", "b-adapt=0", "open-gop=1", crf=38), "-pix_fmt",
           "yuv420p", *EXACT, path("open_gop.mp4"))
    ffmpeg(*source("64x48", 24), "-c:v", "libx265", "-preset", "fast", "-x265-params",
           "crf=38:keyint=8:min-keyint=8:bframes=3:b-adapt=0:open-gop=1:log-level=none:pools=1:"
           "frame-threads=1:info=0", "-pix_fmt", "yuv420p", *EXACT, path("hevc_open_gop.mkv"))
    ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:duration=0.1", "-c:a", "aac", "-b:a", "16k",
           "-fflags", "+bitexact", "-flags:a", "+bitexact", path("sound.m4a"))
    cover = ffmpeg(*source("16x16", 1), "-c:v", "png", "-f", "image2pipe", "-")
    ffmpeg("-i", path("sound.m4a"), "-f", "png_pipe", "-i", "-", "-map", "0", "-map", "1", "-c", "copy",
           "-disposition:v:0", "attached_pic", *EXACT, path("cover.m4a"), data=cover)
    # Large enough for NVDEC, whose smallest pictures are 144 (HEVC) or 128 (VP9, AV1) on a side.
    ffmpeg(*source("200x150", 12), *x264("bframes=3", "ref=4", crf=38), "-pix_fmt", "yuv420p",
           *EXACT, path("large_h264.mp4"))
    ffmpeg(*source("192x160", 6), *x264("interlaced=1", "bframes=2", crf=38), "-pix_fmt", "yuv420p",
           *EXACT, path("large_interlaced.mkv"))
    for name, pixels in {"large_hevc.mp4": "yuv420p", "large_hevc_ten_bit.mkv": "yuv420p10le"}.items():
        ffmpeg(*source("200x150", 8), "-c:v", "libx265", "-preset", "fast", "-x265-params",
               "crf=40:bframes=3:log-level=none:pools=1:frame-threads=1:info=0", "-pix_fmt", pixels,
               *EXACT, path(name))
    ffmpeg(*source("200x150", 24), "-c:v", "libx265", "-preset", "fast", "-x265-params",
           "crf=40:bframes=3:keyint=6:min-keyint=6:scenecut=0:open-gop=0:log-level=none:pools=1:frame-threads=1:"
           "info=0", "-pix_fmt", "yuv420p", *EXACT, path("hevc_groups.mp4"))
    ffmpeg(*source("176x144", 8), "-c:v", "libvpx-vp9", "-crf", "55", "-b:v", "0", "-threads", "1",
           *EXACT, "-pix_fmt", "yuv420p", path("large_vp9.webm"))
    ffmpeg(*source("176x144", 8), "-c:v", "libaom-av1", "-crf", "55", "-b:v", "0", "-cpu-used", "8",
           "-threads", "1", *EXACT, "-pix_fmt", "yuv420p", path("large_av1.mkv"))
    first, second = (ffmpeg(*source(size, 5), *x264(crf=40), "-pix_fmt", "yuv420p", *EXACT, "-f",
                            "h264", "-") for size in ("192x160", "160x128"))
    with open(path("size_change.h264"), "wb") as file:
        file.write(first + second)
    # Cut before its second IDR picture, whose RADL pictures are shown before it.
    data = ffmpeg(*source("64x48", 20), "-c:v", "libx265", "-preset", "fast", "-x265-params",
                  "crf=40:keyint=10:min-keyint=10:scenecut=0:open-gop=0:radl=2:bframes=3:b-adapt=0:log-level=none:"
                  "pools=1:frame-threads=1:info=0", "-pix_fmt", "yuv420p", *EXACT, "-mpegts_flags",
                  "+resend_headers", "-f", "mpegts", "-")
    with open(path("early_pictures.ts"), "wb") as file:
        file.write(data[17 * 188:])
    # A fragmented file that ends before its first fragment: a video track without a frame.
    data = ffmpeg("-i", path("plain.mp4"), "-c", "copy", "-f", "mp4", "-movflags",
                  "frag_keyframe+empty_moov", *EXACT, "-")
    with open(path("no_frames.mp4"), "wb") as file:
        file.write(data[:data.index(b"moof") - 4])


def make_lengths():
    """Files in lengths/ whose stated length is not that of frames at an even rate."""
    os.makedirs(path("lengths"), exist_ok=True)
    video = path("lengths/video.mkv")
    sound = ["-f", "lavfi", "-i", "anullsrc=r=11025:cl=mono", "-t", "3"]
    encoded = ["-pix_fmt", "yuv420p", *EXACT, "-flags:a", "+bitexact"]
    # Frames at 0, 0.12, 0.4, 0.44, 0.48, 2.4, 3.2 and 3.24 s.
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=48x32:rate=25:duration=4", "-vf",
           "select='eq(n,0)+eq(n,3)+between(n,10,12)+eq(n,60)+between(n,80,81)'", "-vsync", "vfr",
           *x264("bframes=2", crf=40), *encoded, video)
    for kind in ("mkv", "flv", "ts"):
        ffmpeg("-i", video, "-c", "copy", *EXACT, path("lengths/sparse." + kind))
    ffmpeg("-i", video, "-c", "copy", "-output_ts_offset", "100", *EXACT, path("lengths/later.mkv"))
    os.remove(video)
    ffmpeg(*source("48x32", 25), *x264("bframes=2", "b-adapt=0", crf=40), *encoded, video)
    for kind in ("mkv", "avi", "flv"):
        form = ["-bsf:v", "h264_mp4toannexb"] if kind == "avi" else []
        ffmpeg("-i", video, *sound, "-c:v", "copy", *form, "-c:a", "mp3", "-b:a", "8k", *EXACT, "-flags:a",
               "+bitexact", path("lengths/sound_longer." + kind))
    ffmpeg(*source("48x32", 25), "-c:v", "wmv2", "-g", "8", "-q:v", "25", "-threads", "1", "-pix_fmt", "yuv420p",
           "-packet_size", "400", *EXACT, path("lengths/plain.wmv"))
    # Begins within a group of pictures, of which an edit list leaves out the first.
    ffmpeg("-i", video, "-c", "copy", *EXACT, path("lengths/whole.mp4"))
    ffmpeg("-ss", "0.6", "-i", path("lengths/whole.mp4"), "-c", "copy", "-movflags", "+faststart", *EXACT,
           path("lengths/edited.mp4"))
    os.remove(path("lengths/whole.mp4"))
    os.remove(video)


def make_starts():
    """Files in starts/ that are hard to begin in the middle."""
    os.makedirs(path("starts"), exist_ok=True)
    # Packets of a program stream hold several pictures, of which the first one's time is told.
    ffmpeg(*source("64x48", 50), "-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-q:v", "6", "-threads", "1",
           "-pix_fmt", "yuv420p", *EXACT, path("starts/mpeg2.mpg"))
    # Its last group is open and shorter than what a decoder holds back.
    ffmpeg(*source("48x32", 19), *x264("bframes=2", "b-adapt=0", "open-gop=1", crf=40), "-pix_fmt", "yuv420p",
           *EXACT, path("starts/short_open_group.mp4"))
    ffmpeg("-i", path("starts/short_open_group.mp4"), "-c", "copy", *EXACT, path("starts/short_open_group.mkv"))
    # Frames 5 s apart: FFmpeg's probe ends before it knows when the first one is shown.
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=48x32:rate=1/5:duration=300", *x264("bframes=2", "b-adapt=0", crf=45),
           "-pix_fmt", "yuv420p", *EXACT, path("starts/seconds_apart.mkv"))
    # Begins with an open group, of which the first pictures have no times and cannot be decoded.
    ffmpeg(*source("48x32", 80), *x264("bframes=3", "b-adapt=0", "open-gop=1", crf=45), "-pix_fmt", "yuv420p", *EXACT,
           path("starts/whole.mp4"))
    ffmpeg("-ss", "0.7", "-i", path("starts/whole.mp4"), "-c", "copy", *EXACT, path("starts/cut_open_group.mkv"))
    os.remove(path("starts/whole.mp4"))


OUTPUTS = {  # file: (format of the frames, filter that makes it)
    "ten_bit.mkv": ("p010le", "format=p010le"),
    "hevc_ten_bit.mp4": ("p010le", "format=p010le"),
    "large_hevc_ten_bit.mkv": ("p010le", "format=p010le"),
    "full_range.mp4": ("yuvj420p", "null"),
    "mjpeg_422.avi": ("yuvj420p", f"scale={SWS},format=yuvj420p"),
    "yuv_444.mp4": ("rgb24", f"scale=in_color_matrix=bt601:{SWS},format=rgb24"),
}


def fnv(data):
    value = 0xcbf29ce484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001b3) & 0xffffffffffffffff
    return value


def golden(name):
    pixels, filters = OUTPUTS.get(name, ("yuv420p", "null"))
    raw = ffmpeg("-i", path(name), "-vf", filters, "-vsync", "passthrough", "-enc_time_base", "1/90000", "-f", "rawvideo",
                 "-pix_fmt", pixels, "-")
    probe = json.loads(subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_frames", "-show_streams",
         "-of", "json", path(name)], check=True, stdout=subprocess.PIPE).stdout)
    stream, frames = probe["streams"][0], probe["frames"]
    numerator, denominator = map(int, stream["time_base"].split("/"))
    start = int(stream.get("start_pts", frames[0]["best_effort_timestamp"]))
    times = []
    for frame in frames:  # AVI has decoding times alone: then frames follow each other evenly
        if "best_effort_timestamp" in frame:
            times.append((int(frame["best_effort_timestamp"]) - start) * numerator / denominator)
        else:
            times.append(times[-1] + numerator / denominator if times else 0.0)
    width, height = stream["width"], stream["height"]
    if name in ("turn_90.mp4", "turn_270.mp4"):
        width, height = height, width
    luma, chroma = width * height, ((width + 1) // 2) * ((height + 1) // 2)
    size = {"rgb24": 3 * luma, "p010le": 2 * (luma + 2 * chroma)}.get(pixels, luma + 2 * chroma)
    assert len(raw) == size * len(times), (name, len(raw), size, len(times))
    return (f"{name} {width} {height} {pixels} {len(times)} {fnv(raw):016x} " +
            " ".join(f"{t!r}" for t in times))


def main():
    make_videos()
    make_lengths()
    make_starts()
    names = sorted(name for name in os.listdir(HERE)
                   if name not in ("lengths", "starts", "sound.m4a", "cover.m4a", "no_frames.mp4", "size_change.h264", "hevc_groups.mp4",
                                   "early_pictures.ts",
                                   "b_frames.avi",
                                   "goldens.txt"))
    with open(path("goldens.txt"), "w", encoding="utf-8") as file:
        for name in names:
            file.write(golden(name) + "\n")
    total = sum(os.path.getsize(path(name)) for name in os.listdir(HERE))
    print(total, "bytes in", HERE)


if __name__ == "__main__":
    main()
