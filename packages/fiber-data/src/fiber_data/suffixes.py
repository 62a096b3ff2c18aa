"""How the names of image files end."""

from PIL import Image


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
