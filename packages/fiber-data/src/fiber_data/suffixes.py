"""Which formats of files are images, and how the names of such files end."""

from PIL import Image

try:
    from pillow_heif import register_heif_opener
except ImportError:  # an extra
    HEIF: tuple[str, ...] = (".heic", ".heif", ".hif")
else:
    register_heif_opener()
    HEIF = ()
"""Endings of images that `fiber-data[heif]` would read."""
INSTALL_HEIF = 'pip install "fiber-data[heif]" to read them'


def image_formats() -> list[str]:
    """The formats that the installed Pillow, with its plugins, opens, the common ones first, as it tries them.

    Those that are something else by their MIME type are left out: of PostScript Pillow would have another program run
    what the file says, whatever the file's name.
    """
    Image.init()
    return [kind for kind in Image.ID if Image.MIME.get(kind, "image/").startswith("image/")]


def image_suffixes() -> tuple[str, ...]:
    """The endings, lower case and with their dot, of the formats that the installed Pillow, with its plugins, opens.

    Formats that are no images by their MIME type (video, PostScript), or have none, are left out.
    """
    Image.init()
    return tuple(
        sorted(
            suffix
            for suffix, kind in Image.registered_extensions().items()
            if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
        )
    )
