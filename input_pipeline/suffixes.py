"""Endings of video and image files."""

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .flv .ts .mts .m2ts .mpg .mpeg .3gp .wmv .ogv .gif .vob".split()
)
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff .gif .ppm .pgm".split())
SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
