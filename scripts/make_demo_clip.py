#!/usr/bin/env python3
"""Makes the demonstration clip: slow pans and zooms over still photographs, as an H.264 MP4.

    scripts/make_demo_clip.py --images FOLDER --list SHOTS.txt -o assets/demo/clip.mp4

SHOTS.txt has one shot a line: a file name in FOLDER, and optionally where the camera starts and
ends, as `cx cy side  cx cy side`: the centre of the window as fractions of the photograph, and the
window's side as a fraction (0.55 to 1) of the largest window of the clip's aspect that fits.
Without them the movement is drawn from --seed. `#` starts a comment. Without --list every picture
of FOLDER is shown, by name. Windows never leave the photograph, so that it covers every frame.

Needs Pillow and the ffmpeg program with libx264 (apt-get install ffmpeg python3-pil).

Needs: pip install pillow
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install pillow")

MIN_SIDE, MAX_SIDE = 0.55, 1.0
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, help="folder of the photographs")
    parser.add_argument("--list", help="shots, one a line (see the top of this file)")
    parser.add_argument("-o", "--output", required=True, help="the MP4 to write")
    parser.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT (default %(default)s)")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the whole clip")
    parser.add_argument("--fade", type=float, default=0.0,
                        help="cross-fade between shots, seconds, at most 0.2 (default: cuts)")
    parser.add_argument("--crf", type=int, default=21, help="x264 quality to begin with")
    parser.add_argument("--max-bytes", type=int, default=2_800_000,
                        help="the quality is lowered until the file is no larger")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not 0 <= arguments.fade <= 0.2:
        parser.error("--fade takes 0 to 0.2 seconds")
    return arguments


def random_movement(rng):
    """Two windows: one wide, one close, in either order, at points apart from each other."""
    wide = (rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6), rng.uniform(0.9, MAX_SIDE))
    close = (rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.7), rng.uniform(MIN_SIDE, 0.72))
    return (wide, close) if rng.random() < 0.6 else (close, wide)


def read_shots(arguments):
    """[(path, start window, end window)] in the order of the clip."""
    rng = random.Random(arguments.seed)
    if arguments.list:
        with open(arguments.list, encoding="utf-8") as file:
            lines = [line.split("#")[0].split() for line in file]
        lines = [line for line in lines if line]
    else:
        lines = [[name] for name in sorted(os.listdir(arguments.images))
                 if name.lower().endswith(EXTENSIONS)]
    shots = []
    for fields in lines:
        movement = random_movement(rng)
        if len(fields) == 7:
            numbers = [float(field) for field in fields[1:]]
            movement = (tuple(numbers[:3]), tuple(numbers[3:]))
        elif len(fields) != 1:
            sys.exit(f"{arguments.list}: '{' '.join(fields)}': a name and 0 or 6 numbers expected")
        for window in movement:
            if not MIN_SIDE <= window[2] <= MAX_SIDE:
                sys.exit(f"{fields[0]}: a window's side is {MIN_SIDE} to {MAX_SIDE}, not {window[2]}")
        shots.append((os.path.join(arguments.images, fields[0]), *movement))
    if not shots:
        sys.exit(f"{arguments.images}: no photographs")
    return shots


def ease(t):
    """0 to 1 with a soft start and end, never quite standing still."""
    return 0.25 * t + 0.75 * t * t * (3 - 2 * t)


def window_box(photograph, window, aspect):
    """The window in pixels of the photograph, moved inside where it would leave it."""
    width, height = photograph.size
    largest = min(width, height * aspect)
    box_width = largest * window[2]
    box_height = box_width / aspect
    left = min(max(window[0] * width - box_width / 2, 0), width - box_width)
    top = min(max(window[1] * height - box_height / 2, 0), height - box_height)
    return left, top, left + box_width, min(top + box_height, height)


def render(shot, t, size):
    """The frame of a shot at t, 0 to 1: an exact (sub-pixel) window, resized with Lanczos."""
    photograph, start, end = shot
    e = ease(t)
    # The side is interpolated geometrically, so that a zoom keeps its apparent speed.
    side = start[2] ** (1 - e) * end[2] ** e
    window = (start[0] + (end[0] - start[0]) * e, start[1] + (end[1] - start[1]) * e, side)
    box = window_box(photograph, window, size[0] / size[1])
    return photograph.resize(size, Image.Resampling.LANCZOS, box=box)


def frames(shots, size, fps, seconds, fade):
    """Every frame of the clip, in order."""
    total = round(seconds * fps)
    fade_frames = round(fade * fps)
    bounds = [round(i * total / len(shots)) for i in range(len(shots) + 1)]
    opened = [None] * len(shots)

    def photograph(i):
        if opened[i] is None:
            with Image.open(shots[i][0]) as picture:
                opened[i] = (ImageOps.exif_transpose(picture).convert("RGB"), *shots[i][1:])
        return opened[i]

    for i in range(len(shots)):
        first, last = bounds[i], bounds[i + 1]
        length = max(last - first + fade_frames - 1, 1)
        for n in range(first, last):
            frame = render(photograph(i), (n - first) / length, size)
            if i > 0 and n - first < fade_frames:
                # The shot before goes on moving while it fades.
                before = bounds[i] - bounds[i - 1]
                old = render(photograph(i - 1),
                             min((before + n - first) / max(before + fade_frames - 1, 1), 1), size)
                frame = Image.blend(old, frame, (n - first + 1) / (fade_frames + 1))
            yield frame
        if i > 0:
            opened[i - 1] = None


def encode(raw, size, fps, crf, output):
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24",
         "-s", f"{size[0]}x{size[1]}", "-r", str(fps), "-i", raw,
         "-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=lanczos+accurate_rnd,format=yuv420p",
         "-c:v", "libx264", "-preset", "slower", "-crf", str(crf), "-threads", "2",
         "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709",
         "-color_range", "tv", "-map_metadata", "-1", "-fflags", "+bitexact",
         "-flags:v", "+bitexact", "-movflags", "+faststart", output],
        check=True)


def main():
    arguments = parse_arguments()
    size = tuple(int(part) for part in arguments.size.split("x"))
    shots = read_shots(arguments)
    for path, _, _ in shots:
        if not os.path.isfile(path):
            sys.exit(f"{path}: no such file")
    os.makedirs(os.path.dirname(os.path.abspath(arguments.output)), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        raw = os.path.join(folder, "frames.rgb")
        with open(raw, "wb") as file:
            for frame in frames(shots, size, arguments.fps, arguments.seconds, arguments.fade):
                file.write(frame.tobytes())
        crf = arguments.crf
        while True:
            encode(raw, size, arguments.fps, crf, arguments.output)
            written = os.path.getsize(arguments.output)
            if written <= arguments.max_bytes or crf >= 40:
                break
            crf += 2
    print(f"{arguments.output}: {written} bytes, crf {crf}, {len(shots)} photographs, "
          f"{arguments.seconds:g} s at {arguments.fps} fps")


if __name__ == "__main__":
    main()
