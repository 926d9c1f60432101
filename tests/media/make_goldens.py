"""Writes images/: small pictures of every kind that decode_image reads, and images/goldens.txt with
what Pillow makes of each: size and CRC-32 of convert("RGB"), as stored and turned upright.

PNG, TIFF and BMP kinds that Pillow cannot write are put together here; the
expected pixels always come from Pillow.

Needs: pip install numpy pillow
"""

import io
import struct
import zlib
from pathlib import Path

try:
    import numpy as np
    from PIL import Image, ImageOps
except ImportError as error:
    raise SystemExit(f"{error}; this script needs: pip install numpy pillow")

OUT = Path(__file__).parent / "images"
RNG = np.random.default_rng(11)
W, H = 21, 13
ORIENTATION = 0x0112


def smooth(width=W, height=H, channels=3):
    """Gradients with a little noise, so that lossy files stay small."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (9 - 2 * c) + y * (3 + 5 * c) + 40 * c) % 256 for c in range(channels)]
    noise = RNG.integers(0, 20, (height, width, channels))
    return np.clip(np.stack(planes, -1) + noise, 0, 255).astype(np.uint8)


files = {}


def save(name, image, **options):
    stream = io.BytesIO()
    image.save(stream, **options)
    files[name] = stream.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[ORIENTATION] = orientation
    return block


def jpegs():
    rgb, large = Image.fromarray(smooth()), Image.fromarray(smooth(50, 37))
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        save(f"rgb_{subsampling.replace(':', '')}.jpg", large, format="JPEG", quality=60, subsampling=subsampling)
    save("progressive.jpg", large, format="JPEG", quality=60, progressive=True)
    save("restart.jpg", large, format="JPEG", quality=60, restart_marker_blocks=2)
    save("grey.jpg", rgb.convert("L"), format="JPEG")
    save("keep_rgb.jpg", rgb, format="JPEG", keep_rgb=True)
    save("cmyk.jpg", Image.fromarray(smooth(channels=4), "CMYK"), format="JPEG")
    # The same samples declared as YCCK: the transform byte of Adobe's marker.
    data = bytearray(files["cmyk.jpg"])
    data[data.index(b"Adobe") + 11] = 2
    files["ycck.jpg"] = bytes(data)
    for orientation in range(1, 9):
        save(f"orientation_{orientation}.jpg", rgb, format="JPEG", quality=50, exif=exif(orientation))
    files["jpeg_in_png_clothing.png"] = files["rgb_420.jpg"]


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_rows(samples, depth):
    """Rows of samples [height, width, channels] as PNG filter-0 scan lines."""
    height = samples.shape[0]
    flat = samples.reshape(height, -1)
    out = b""
    for row in flat:
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        elif depth == 8:
            packed = row.astype(np.uint8).tobytes()
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
            packed = np.packbits(bits.reshape(-1)).tobytes()
        out += b"\0" + packed
    return out


def png(samples, depth, color, interlaced, extra=b""):
    height, width = samples.shape[:2]
    if interlaced:
        passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
        parts = [samples[y::dy, x::dx] for y, dy, x, dx in passes]
        data = b"".join(pack_rows(p, depth) for p in parts if p.size)
    else:
        data = pack_rows(samples, depth)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(data, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pngs():
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    for color, depth in [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8),
                         (4, 8), (4, 16), (6, 8), (6, 16)]:  # fmt: skip
        samples = RNG.integers(0, 1 << depth, (H, W, channels[color]))
        if (color, depth) == (0, 16):
            samples >>= RNG.integers(0, 16, samples.shape)  # values on both sides of 255
        extra = b""
        if color == 3:
            samples = np.minimum(samples, 40)
            extra = png_chunk(b"PLTE", RNG.integers(0, 256, (min(1 << depth, 41), 3)).astype(np.uint8).tobytes())
            extra += png_chunk(b"tRNS", b"\0\x80")
        elif color == 0:
            extra = png_chunk(b"tRNS", b"\0\1")
        elif color == 2:
            extra = png_chunk(b"tRNS", b"\0\1\0\2\0\3") + png_chunk(b"gAMA", struct.pack(">I", 45455))
        for interlaced in (False, True):
            files[f"png_{color}_{depth}{'_adam7' if interlaced else ''}.png"] = png(samples, depth, color, interlaced, extra)
    short_palette = png_chunk(b"PLTE", bytes([9, 8, 7, 6, 5, 4]))
    files["palette_overrun.png"] = png(np.array([[[0], [1], [2], [200]]]), 8, 3, False, short_palette)
    rgb = Image.fromarray(smooth())
    save("orientation_6.png", rgb, format="PNG", exif=exif(6))
    files["no_iend.png"] = files["png_2_8.png"][:-12]
    files["png.jpg"] = files["png_0_8.png"]


def webps():
    rgb, rgba = Image.fromarray(smooth()), Image.fromarray(smooth(channels=4))
    save("lossy.webp", rgb, format="WEBP", quality=60)
    save("lossless.webp", rgb, format="WEBP", lossless=True)
    save("alpha.webp", rgba, format="WEBP", quality=60)
    save("alpha_lossless.webp", rgba, format="WEBP", lossless=True, exact=True)
    save("orientation_8.webp", rgb, format="WEBP", quality=60, exif=exif(8))
    frames = [Image.fromarray(smooth()) for _ in range(3)]
    save("animated.webp", frames[0], format="WEBP", save_all=True, append_images=frames[1:], duration=40)


def tiff(samples, photometric, bits, planar=1, tile=None, big_endian=False, palette=None, extra=(), more=(), fmt=1):
    """An uncompressed TIFF; samples [height, width, channels]."""
    order = ">" if big_endian else "<"
    height, width, channels = samples.shape

    def block(part):
        if fmt == 3:
            return part.astype(order + "f4").tobytes()
        if bits == 16:
            return part.astype(order + "u2").tobytes()
        if bits == 8:
            return part.astype(np.uint8).tobytes()
        shifts = np.arange(bits - 1, -1, -1)
        rows = part.reshape(part.shape[0], -1)
        return np.packbits(((rows[:, :, None] >> shifts) & 1).astype(np.uint8).reshape(part.shape[0], -1), axis=1).tobytes()

    planes = [samples] if planar == 1 else [samples[..., c : c + 1] for c in range(channels)]
    blocks = []
    rows_per_strip = 5
    for plane in planes:
        if tile:
            padded = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, plane.shape[2]), plane.dtype)
            padded[:height, :width] = plane
            for y in range(0, height, tile):
                for x in range(0, width, tile):
                    blocks.append(block(padded[y : y + tile, x : x + tile]))
        else:
            blocks += [block(plane[y : y + rows_per_strip]) for y in range(0, height, rows_per_strip)]

    short, long = 3, 4
    tags = [(256, short, [width]), (257, short, [height]), (258, short, [bits] * channels), (259, short, [1]),
            (262, short, [photometric]), (277, short, [channels]), (284, short, [planar]),
            (339, short, [fmt] * channels)]  # fmt: skip
    if extra:
        tags.append((338, short, list(extra)))
    if palette is not None:
        tags.append((320, short, palette))
    tags += list(more)
    sizes = [len(b) for b in blocks]
    if tile:
        tags += [(322, short, [tile]), (323, short, [tile]), (324, long, [0] * len(blocks)), (325, long, sizes)]
    else:
        tags += [(278, short, [rows_per_strip]), (273, long, [0] * len(blocks)), (279, long, sizes)]
    tags.sort()
    directory = 8
    values_at = directory + 2 + 12 * len(tags) + 4
    values_size = sum(n for n in (len(v) * (2 if t == short else 4) for _, t, v in tags) if n > 4)
    position = values_at + values_size
    offsets = []
    for b in blocks:
        offsets.append(position)
        position += len(b)
    out = (b"MM\0\x2a" if big_endian else b"II\x2a\0") + struct.pack(order + "I", directory)
    out += struct.pack(order + "H", len(tags))
    values = b""
    for tag, kind, value in tags:
        value = offsets if tag in (273, 324) else value
        data = struct.pack(order + f"{len(value)}{'H' if kind == short else 'I'}", *value)
        out += struct.pack(order + "HHI", tag, kind, len(value))
        if len(data) > 4:
            out += struct.pack(order + "I", values_at + len(values))
            values += data
        else:
            out += data.ljust(4, b"\0")
    return out + b"\0\0\0\0" + values + b"".join(blocks)


def tiffs():
    rgb, cmyk = Image.fromarray(smooth()), Image.fromarray(smooth(channels=4), "CMYK")
    kinds = {"rgb": rgb, "grey": rgb.convert("L"), "cmyk": cmyk, "rgba": Image.fromarray(smooth(channels=4)),
             "palette": rgb.quantize(40), "bits": rgb.convert("1")}  # fmt: skip
    for name, image in kinds.items():
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
            if compression == "tiff_lzw" or name in ("rgb", "grey", "bits"):
                save(f"{name}_{compression.split('_')[-1]}.tif", image, format="TIFF", compression=compression)
    save("fax.tif", kinds["bits"], format="TIFF", compression="group4")
    save("jpeg.tif", rgb, format="TIFF", compression="jpeg")
    save("jpeg_ycbcr.tif", rgb.convert("YCbCr"), format="TIFF", compression="jpeg")
    save("ycbcr_lzw.tif", rgb.convert("YCbCr"), format="TIFF", compression="tiff_lzw")
    save("pages.tif", rgb, format="TIFF", compression="tiff_lzw", save_all=True, append_images=[kinds["grey"]])
    noise = RNG.integers(0, 256, (H, W, 4))
    wide = RNG.integers(0, 65536, (H, W, 4))
    grey_16 = wide[..., :1] >> RNG.integers(0, 16, (H, W, 1))
    files["rgb_tiles.tif"] = tiff(noise[..., :3], 2, 8, tile=16)
    files["rgb_planes.tif"] = tiff(noise[..., :3], 2, 8, planar=2)
    files["rgb_plane_tiles.tif"] = tiff(noise[..., :3], 2, 8, planar=2, tile=16)
    files["cmyk_planes.tif"] = tiff(noise, 5, 8, planar=2)
    files["rgb_16.tif"] = tiff(wide[..., :3], 2, 16)
    files["rgb_16_big.tif"] = tiff(wide[..., :3], 2, 16, big_endian=True)
    files["rgba_16.tif"] = tiff(wide, 2, 16, extra=[2])
    files["grey_16.tif"] = tiff(grey_16, 1, 16)
    files["grey_16_big.tif"] = tiff(grey_16, 1, 16, big_endian=True)
    files["grey_float.tif"] = tiff(RNG.normal(100, 120, (H, W, 1)), 1, 32, fmt=3)
    files["grey_alpha.tif"] = tiff(noise[..., :2], 1, 8, extra=[2])
    files["grey_2.tif"] = tiff(noise[..., :1] & 3, 1, 2)
    files["white_4.tif"] = tiff(noise[..., :1] & 15, 0, 4)
    files["white_8.tif"] = tiff(noise[..., :1], 0, 8)
    files["white_1.tif"] = tiff(noise[..., :1] & 1, 0, 1)
    palette = RNG.integers(0, 65536, 48).tolist()
    files["palette_4.tif"] = tiff(noise[..., :1] & 15, 3, 4, palette=palette)
    files["orientation_7.tif"] = tiff(noise[..., :3], 2, 8, more=[(274, 3, [7])])


def bmp(samples, bits, header_size=40, compression=0, palette=b"", masks=b"", data=None, top_down=False, colors=0):
    height, width = samples.shape[:2]
    if data is None:
        data = b""
        for row in samples if top_down else samples[::-1]:
            if bits == 16:
                packed = row.astype("<u2").tobytes()
            elif bits >= 8:
                packed = row.astype(np.uint8).tobytes()
            else:
                bit = ((row.reshape(-1)[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
                packed = np.packbits(bit.reshape(-1)).tobytes()
            data += packed + b"\0" * (-len(packed) % 4)
    if header_size == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        signed_height = -height if top_down else height
        header = struct.pack("<IiiHHIIiiII", 40, width, signed_height, 1, bits, compression, len(data), 0, 0, colors, 0)
    offset = 14 + len(header) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + masks + palette + data


def bmps():
    rgb = Image.fromarray(smooth())
    for name, image in {"rgb": rgb, "rgba": Image.fromarray(smooth(channels=4)), "grey": rgb.convert("L"),
                        "palette": rgb.quantize(40), "bits": rgb.convert("1")}.items():  # fmt: skip
        save(f"{name}.bmp", image, format="BMP")
    colors = RNG.integers(0, 256, (256, 4)).astype(np.uint8)
    indices = RNG.integers(0, 256, (H, W))
    files["four_bits.bmp"] = bmp(indices & 15, 4, palette=colors[:16].tobytes())
    files["one_bit.bmp"] = bmp(indices & 1, 1, palette=colors[:2].tobytes())
    files["os2.bmp"] = bmp(indices & 15, 4, header_size=12, palette=colors[:16, :3].tobytes())
    files["few_colors.bmp"] = bmp(indices & 31, 8, palette=colors[:20].tobytes(), colors=20)
    files["grey_ramp.bmp"] = bmp(indices & 31, 8, colors=20,
                                 palette=bytes(v for i in range(20) for v in (i, i, i, 0)))  # fmt: skip
    files["top_down.bmp"] = bmp(RNG.integers(0, 256, (H, W, 3)), 24, top_down=True)
    files["plain_32.bmp"] = bmp(RNG.integers(0, 256, (H, W, 4)), 32)
    words = RNG.integers(0, 65536, (H, W))
    files["bits_555.bmp"] = bmp(words, 16)
    files["bits_565.bmp"] = bmp(words, 16, compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    files["fields_32.bmp"] = bmp(RNG.integers(0, 256, (H, W, 4)), 32, compression=3,
                                 masks=struct.pack("<III", 0xFF000000, 0xFF0000, 0xFF00))  # fmt: skip
    runs = bytes([5, 7, 3, 9, 0, 0, 0, 4, 1, 2, 3, 4, 4, 11, 0, 0, 0, 2, 2, 1, 3, 200, 0, 0, 2, 1, 0, 0,
                  0, 3, 5, 6, 7, 0, 5, 8, 0, 0, 0, 1])  # fmt: skip
    files["rle8.bmp"] = bmp(np.zeros((5, 8)), 8, compression=1, palette=colors.tobytes(), data=runs)
    runs = bytes([5, 0x71, 3, 0x29, 0, 0, 0, 4, 0x12, 0x34, 4, 0xAB, 0, 0, 0, 2, 2, 1, 3, 0xC8, 0, 0, 2, 1, 0, 0,
                  0, 3, 0x56, 0x70, 5, 0x80, 0, 0, 0, 1])  # fmt: skip
    files["rle4.bmp"] = bmp(np.zeros((5, 8)), 4, compression=2, palette=colors[:16].tobytes(), data=runs)


def ppms():
    rgb = smooth(7, 5)
    save("rgb.ppm", Image.fromarray(rgb), format="PPM")
    save("grey.pgm", Image.fromarray(rgb[..., 0]), format="PPM")
    save("bits.pbm", Image.fromarray(rgb).convert("1"), format="PPM")
    text = " ".join(str(v) for v in rgb.reshape(-1))
    files["text.ppm"] = f"P3\n# a comment\n7 5 # another\n255\n{text}\n".encode()
    files["text.pgm"] = b"P2 3 2 100\n0 50 100\n 7\t33 99"
    files["text_16.pgm"] = b"P2 3 2 1000\n0 1 2 3 4 1000"
    files["text.pbm"] = b"P1 5 2\n01010 1 1 0 0 1\n"
    files["maximum_100.ppm"] = b"P6 4 1 100\n" + bytes([0, 1, 2, 50, 51, 99, 100, 101, 255, 33, 66, 77])
    files["maximum_1000.ppm"] = b"P6 2 1 1000\n" + struct.pack(">6H", 0, 1, 500, 999, 1000, 2)
    files["grey_1000.pgm"] = b"P5 5 1 1000\n" + struct.pack(">5H", 0, 1, 2, 3, 1000)
    files["grey_16.pgm"] = b"P5 5 1 65535\n" + struct.pack(">5H", 0, 200, 255, 256, 65535)


def crc(image):
    return f"{image.width} {image.height} {zlib.crc32(np.asarray(image).tobytes()):08x}"


def main():
    for make in (jpegs, pngs, webps, tiffs, bmps, ppms):
        make()
    OUT.mkdir(exist_ok=True)
    lines = []
    for name, data in sorted(files.items()):
        (OUT / name).write_bytes(data)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        stored = Image.open(io.BytesIO(data))
        if name.endswith(".tif"):  # Pillow turns these itself
            tag = stored.tag_v2.get(ORIENTATION, 1)
            stored = stored.convert("RGB")
            if tag == 7:
                stored = stored.transpose(Image.Transpose.TRANSVERSE)  # its own inverse
        lines.append(f"{name} {crc(stored.convert('RGB'))} {crc(upright)}")
    (OUT / "goldens.txt").write_text("\n".join(lines) + "\n")
    print(len(files), "files,", sum(map(len, files.values())), "bytes")


if __name__ == "__main__":
    main()
