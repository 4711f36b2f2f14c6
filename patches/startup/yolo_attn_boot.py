"""The import hook through which yolo_attn reaches Ultralytics.

Installed as a top-level module, beside a `.pth` file (for Python 3.15 and later a `.start` file) that arms the hook at
every interpreter start, including the child processes that Ultralytics launches. Arming imports nothing and prints
nothing, and an armed hook does nothing until one of `TARGETS` is imported. The `.pth` line has a finder of its own that
imports this module only then: importing even a small module at each start takes longer than that line.
YOLO_ATTN_AUTOLOAD=0 keeps the hook from arming.
"""

import sys

TARGETS = (
    "ultralytics.nn.tasks",
    "ultralytics.data.utils",
    "ultralytics.engine.trainer",
    "ultralytics.engine.model",
)


class Finder:
    """Lets the other finders find a target module, then wraps its loader in a `Loader`."""

    yolo_attn = True  # by which copies of the hook (the .pth line's, another site folder's) are recognised

    def find_spec(self, name, path=None, target=None):
        """Spec of a target module with its loader wrapped; None for everything else."""
        return find_spec(name, path, target) if name in TARGETS else None


def find_spec(name, path, target):
    """Spec of a target module, from the first other finder that has one, with its loader wrapped."""
    for finder in sys.meta_path:
        find = None if getattr(finder, "yolo_attn", False) else getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find else None
        if spec is not None:
            if spec.loader is not None:
                spec.loader = Loader(spec.loader)
            return spec
    return None


class Loader:
    """Runs the real loader, then applies the patches; afterwards the module has its own loader."""

    def __init__(self, loader):
        self.loader = loader

    def __getattr__(self, name):
        """Any other attribute of the real loader."""
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def create_module(self, spec):
        """Let the real loader create the module."""
        return self.loader.create_module(spec)

    def exec_module(self, module):
        """Execute the module with its own loader in place, then patch it."""
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        apply(module.__name__)


def arm():
    """Put one finder in front of `sys.meta_path`, unless YOLO_ATTN_AUTOLOAD is 0."""
    if "os" in sys.modules and sys.modules["os"].environ.get("YOLO_ATTN_AUTOLOAD") == "0":
        return
    install()


def install():
    """Put one finder in front of `sys.meta_path`, in the place of copies, which may be older and know fewer targets."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path[:] = [Finder(), *(f for f in sys.meta_path if not getattr(f, "yolo_attn", False))]


def apply(target):
    """Patch the freshly imported `target`; Ultralytics goes on unpatched whatever happens here."""
    try:
        from yolo_attn import patches

        patches.apply(target)
    except (Exception, SystemExit) as e:
        if getattr(e, "name", None) == "yolo_attn":  # the package was removed and its start-up files were left
            return
        import warnings

        warnings.warn(
            f"yolo_attn is installed but broken ({type(e).__name__}: {e}); Ultralytics runs without its blocks. "
            "Reinstall it, or set YOLO_ATTN_AUTOLOAD=0.",
            RuntimeWarning,
            stacklevel=2,
        )
