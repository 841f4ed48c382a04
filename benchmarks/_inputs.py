"""Hostile inputs for `fuzz.py`: files and a command line, made from a number and a seed.

A kind starts from something valid and spoils it, at the level of bytes or of structure, or leaves
it as it is: half of what a fuzzer makes should get past the first check.
"""

import io
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

RUN = ("--dry-run", "--assume-tflops", "100", "--devices", "cpu")
EVIL = (
    "", " ", "\t", "x" * 5000, "\x00", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\nb", "a\rb",
    "../../../etc/passwd", "/etc/passwd", "..", ".", "~", "-", "--help", "C:\\x", "a/b",
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.example","x")',
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;", "'\"",
    "\u2028", "\u2029", "\u0085", "\u202eevil\u202c", "\ufeff", "\u200b", "\u00a0", "🦜", "é",
    "|a|b|", "`a`", "*a*", "[a](http://evil.example)", "![a](x)", "www.evil.example", "$x^2$",
    "[bold]a[/bold]", "[/]", "[link=http://evil.example]a[/link]", "\\", "\\[", "{{7*7}}",
    "{%x%}", "${HOME}", "%s%n", "\\input{/etc/passwd}", "^^M", "_", "#", "a'; DROP TABLE runs",
    "datum.x", "CON", "__import__('os')", "os.system", "٣", "１", "NaN", "Infinity", "null",
    "true", "[" * 3000, "(" * 300, "1" * 5000, "1e400", "0x10", "1_000", "-0", "1e-320",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 3, 7, 8, 10, 32, -1, -(10**18), 10**6, 10**9, 10**18, 2**31, 2**63, 2**64, 10**30,
    0.0, -0.0, 0.1, 0.5, 0.999999, 1.0, 1.5, 1e-300, 1e300, 1e308, -1e308, math.nan, math.inf,
    -math.inf, True, False,
)  # fmt: skip


@dataclass(frozen=True)
class Input:
    """A case.

    Attributes:
        kind: What is hostile in it.
        arguments: Of `augbench`, run in a folder that holds the files.
        files: Content by path.
        names: Texts of strangers that must not reach a table, a picture or a terminal as they are.
    """

    kind: str
    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    names: tuple[str, ...] = ()


def value(rng: random.Random) -> Any:
    """Something that may stand where it should not."""
    draw = rng.random()
    if draw < 0.45:
        return rng.choice(NUMBERS)
    if draw < 0.85:
        return rng.choice(EVIL)
    return rng.choice(([], {}, [[]], [{}], {"a": 1}, [1, "a"], None, [None], {"": {}}))


def spoiled_text(text: str, rng: random.Random) -> str:
    """The text with some characters cut, doubled, swapped or put in."""
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 1, 3, 10)))
        piece = rng.choice(("", text[at:end] * 2, rng.choice(EVIL), rng.choice("[]=,.:-1 e")))
        text = text[:at] + piece + text[end:]
    return text


def spoiled_bytes(
    data: bytes, rng: random.Random, times: Sequence[int] = (0, 1, 1, 2, 8)
) -> bytes:
    """The bytes with some flipped, cut, doubled, zeroed or put in."""
    out = bytearray(data)
    for _ in range(rng.choice(times)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out = out[:at]
            case 2:
                out[at:at] = rng.choice(
                    (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\n", b"{")
                )
            case 3:
                out[at : at + 4] = rng.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")
                )
            case 4:
                out[at : at + rng.randrange(64)] = b""
            case 5:
                out[at:at] = out[at : at + rng.randrange(256)]
    return bytes(out)


def spoiled_tree(tree: Any, rng: random.Random, times: Sequence[int] = (0, 1, 1, 2, 4)) -> Any:
    """Plain data with some values replaced, removed, renamed or doubled, wherever they are."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice(times)):
        places = list(_places(tree))
        holder, key = rng.choice(places)
        action = rng.randrange(6)
        if action < 3:
            holder[key] = value(rng)
        elif action == 3:
            del holder[key]
        elif action == 4 and isinstance(holder, dict):
            holder[rng.choice(("extra", *EVIL[:20]))] = holder[key]
        elif isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = [holder[key]]
        if not tree:
            break
    return tree


def shifted_tree(tree: Any, rng: random.Random) -> Any:
    """Plain data with some values replaced by others of their type, lists cut or lengthened."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = rng.choice(list(_places(tree)))
        old = holder[key]
        if isinstance(old, bool):
            holder[key] = not old
        elif isinstance(old, int):
            holder[key] = rng.choice((0, 1, 2, old + 1, -old, 10**6, 10**15, 2**62))
        elif isinstance(old, float):
            holder[key] = rng.choice((0.0, 1.0, 0.5, old * 2, -old, 1e-12, 1e300, 1e15))
        elif isinstance(old, str):
            holder[key] = rng.choice(EVIL)
        elif isinstance(old, list):
            holder[key] = rng.choice((old[:-1], old + old[:1], [], old[::-1]))
        elif isinstance(old, dict) and old:
            del old[rng.choice([*old])]
        else:
            holder[key] = value(rng)
    return tree


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, inner in items:
        yield tree, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def toml(tree: dict[str, Any]) -> str:
    """Plain data as TOML, nested tables inline; what TOML cannot say becomes text."""
    return "".join(f"{_key(key)} = {_toml(inner)}\n" for key, inner in tree.items())


def _key(key: str) -> str:
    return json.dumps(key).replace("\x7f", "\\u007f")


def _toml(inner: Any) -> str:
    if isinstance(inner, dict):
        return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in inner.items()) + "}"
    if isinstance(inner, list):
        return "[" + ", ".join(map(_toml, inner)) + "]"
    if isinstance(inner, bool) or inner is None:
        return json.dumps(bool(inner))
    if isinstance(inner, float):
        return repr(inner)
    return str(inner) if isinstance(inner, int) else json.dumps(inner)


def pixels(rng: random.Random, side: int = 8, channels: int = 3) -> Image.Image:
    """A small picture."""
    noise = np.frombuffer(rng.randbytes(side * side * channels), np.uint8)
    return Image.fromarray(noise.reshape(side, side, channels)[:, :, :3])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file's content."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hub(classes: Sequence[Any]) -> dict[bytes, bytes]:
    """The hub's metadata of a file with an image and a label."""
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def parquet(
    images: Any, labels: Any, metadata: dict[bytes, bytes] | None, **options: Any
) -> bytes:
    """A Parquet file of the columns `image` and `label`."""
    table = pa.table({"image": images, "label": labels})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, **options)
    return buffer.getvalue()


Maker = Callable[[random.Random], Input]


@dataclass(frozen=True)
class Materials:
    """What inputs are made from.

    Attributes:
        options: Method to its options and their defaults.
        records: Sound records of one suite, as plain data.
        suites: Texts of sound suite files.
    """

    options: dict[str, dict[str, Any]]
    records: list[dict[str, Any]]
    suites: list[str]

    def suite(self, rng: random.Random) -> Input:
        """A suite file, of the project or a small one, spoiled as text or as data."""
        tree = {
            "budgets": [1.0],
            "seeds": 1,
            "methods": rng.sample(
                ("none", "standard", "cutout", "mixup", "none[length=filled]"), 2
            ),
            "tasks": [
                {
                    "data": "digits",
                    "distort": rng.sample(("clean", "noise=0.1", "imbalance=10"), 1),
                    "network": "small-cnn",
                    "recipe": {"steps": 20, "batch_size": 64, "warmup": 0.1},
                }
            ],
        }
        match rng.randrange(4):
            case 0:
                data = spoiled_text(toml(tree), rng).encode("utf-8", "surrogatepass")
            case 1:
                data = spoiled_bytes(toml(tree).encode(), rng)
            case _:
                data = toml(spoiled_tree(tree, rng)).encode("utf-8", "surrogatepass")
        return Input("suites", ("run", "--suite", "case.toml", *RUN), {"case.toml": data})

    def spec(self, rng: random.Random) -> Input:
        """A method and its options."""
        name = rng.choice([*self.options])
        known = self.options[name]
        chosen = rng.sample([*known], min(len(known), rng.choice((0, 1, 1, 2))))
        parts = [f"{key}={self._option(known[key], rng)}" for key in chosen]
        if rng.random() < 0.1:
            parts.append(f"{rng.choice(EVIL)}={rng.choice(EVIL)}")
        text = f"{name}[{','.join(parts)}]" if parts else name
        if rng.random() < 0.25:
            text = spoiled_text(text, rng)
        return Input("specs", _own("-m", text))

    def _option(self, default: Any, rng: random.Random) -> Any:
        if rng.random() < 0.25:
            return rng.choice((*NUMBERS, *EVIL))
        if isinstance(default, bool):
            return rng.choice(("true", "false"))
        if isinstance(default, int | float):
            return rng.choice((default, default * 2, default / 2, default + 1, 1, 2, 0.5))
        return default if default is not None else rng.choice(("uniform", "null", 1, 0.5))

    def distortion(self, rng: random.Random) -> Input:
        """What is done to the training images' labels and numbers."""
        keys = ("noise", "noise-sym", "noise-pair", "imbalance", "longtail", "subsample")
        usual = {"imbalance": ("1", "2", "10", "1e9"), "longtail": ("1", "10", "1e300")}
        shares = ("0", "0.1", "0.4", "0.75", "0.999", "1e-9")
        numbers = ("0", "1", "nan", "1e400", "-1", "", "1_0", "0x1")
        parts = [
            f"{k}={rng.choice(usual.get(k, shares) if rng.random() < 0.85 else numbers)}"
            for k in rng.sample(keys, rng.choice((1, 1, 1, 2)))
        ]
        text = ",".join(parts)
        if rng.random() < 0.25:
            text = spoiled_text(text, rng)
        return Input("distortions", (*_own("-m", "none"), "--distort", text))

    def option(self, rng: random.Random) -> Input:
        """Numbers and names on the command line."""
        usual = {
            "--budget": ("1", "3rt", "0.5", "1e3", "2RT", " 1 ", "0"),
            "--seeds": ("1", "2", "3"),
            "--steps": ("1", "100", "1000000"),
            "--size": ("8", "16", "32", "9"),
            "--network": ("lenet", "small-cnn", "wrn-10-1", "wrn-16-2", "wrn-11-1", "resnet-18"),
            "--name": ("mine", "a.b", "-", "x" * 99),
            "--track": ("portable", "gpu"),
            "--jobs": ("1", "2"),
            "--threads": ("1", "2"),
            "--devices": ("cpu", "0", "cpu,0"),
            "--executor": ("local", "ray", "slurm", "x"),
            "--memory-limit": ("0.001", "4", "1000"),
            "--checkpoint-minutes": ("0", "5", "0.1"),
            "--plugin": ("nothing.py", "case.py", "."),
            "--root": (".", "nothing"),
            "--data": ("digits", "folder:.", "parquet:.", "digits:x", "cifar10"),
            "--gpus": ("0", "0.5", "1"),
            "--partition": ("main",),
            "--per-device": ("1", "2"),
            "--time": ("10",),
            "--assume-tflops": ("1", "1000", "0.01"),
        }
        name = rng.choice([*usual])
        text = rng.choice(usual[name])
        if rng.random() < 0.45:
            text = str(
                rng.choice((rng.choice(NUMBERS), rng.choice(EVIL), spoiled_text(text, rng)))
            )
        files = {"case.py": spoiled_bytes(b"import os\nX = [1]\n", rng)}
        return Input("options", (*_own("-m", "none"), name, text.replace("\0", "0")), files)

    def record(self, rng: random.Random) -> Input:
        """A suite's records, one of them spoiled, and a command that reads them."""
        records = [json.loads(json.dumps(one)) for one in rng.sample(self.records, 4)]
        names = [one["hash"] for one in records]
        one = records[0]
        parts = (
            "method",
            "task",
            "scores",
            "bill",
            "policy",
            "trace",
            "config",
            "points",
            "curve",
        )
        part = rng.choice([part for part in parts if one.get(part)])
        spoil = shifted_tree if rng.random() < 0.65 else spoiled_tree
        if rng.random() < 0.8:  # where most of what the tables use is
            one[part] = spoil(one[part], rng)
        else:
            one = spoil(one, rng)
        data = json.dumps(one, indent=1, sort_keys=True).encode()
        if rng.random() < 0.15:
            data = spoiled_bytes(data, rng)
        files = {f"results/demo/runs/{names[0]}.json": data}
        for name, other in zip(names[1:], records[1:], strict=True):
            files[f"results/demo/runs/{name}.json"] = json.dumps(other).encode()
        commands = (
            ("leaderboard", "demo"),
            ("leaderboard", "demo", "--with", f"results/demo/runs/{names[0]}.json"),
            ("policy", "export", names[0]),
            ("timeline", names[0]),
            ("points", names[0]),
            ("preview", names[0], "--data", "digits"),
            ("publish", "demo", "--check", "--rerun-minutes", "0"),
            ("run", "--suite", "case.toml", *RUN),
        )
        if part in ("policy", "trace", "points"):
            commands = commands[2:6]
        if rng.random() < 0.02:
            commands = (("report", "demo"),)
        suite = {"name": "demo", "budgets": [1.0], "seeds": 1, "methods": ["none"]}
        task = {"data": "digits", "network": "small-cnn", "recipe": {"steps": 20}}
        files["case.toml"] = toml(suite | {"tasks": [task]}).encode()
        return Input("records", rng.choice(commands), files)

    def image(self, rng: random.Random) -> Input:
        """A folder of images, one of them spoiled."""
        mode = rng.choice(("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"))
        kinds = {
            "PNG": ("RGB", "L", "1", "P", "RGBA", "LA", "I;16"),
            "JPEG": ("RGB", "L", "CMYK"),
            "GIF": ("RGB", "L", "P", "1"),
            "WEBP": ("RGB", "RGBA"),
            "BMP": ("RGB", "L", "P", "1"),
            "TIFF": ("RGB", "L", "P", "CMYK", "1", "I;16"),
            "PPM": ("RGB", "L", "1"),
            "TGA": ("RGB", "L", "P"),
        }
        kind = rng.choice([*kinds])
        mode = mode if mode in kinds[kind] else "RGB"
        data = encoded(pixels(rng).convert("L" if mode == "I;16" else "RGB").convert(mode), kind)
        if rng.random() < 0.15:
            data = bomb(rng)
        elif rng.random() < 0.65:
            data = spoiled_bytes(data, rng, (1, 1, 2, 8))
        files = {
            f"set/{label}/{row}.png": encoded(pixels(rng), "PNG")
            for label in "ab"
            for row in range(3)
        }
        files[f"set/a/case.{rng.choice((kind.lower(), 'png', 'jpg'))}"] = data
        skip = ("--skip-corrupt",) if rng.random() < 0.3 else ()
        return Input("images", (*_of("folder:set"), *skip), files)

    def parquet(self, rng: random.Random) -> Input:
        """A Parquet file of images, spoiled as bytes or in its columns."""
        rows = 8
        content: list[Any] = [encoded(pixels(rng), "PNG") for _ in range(rows)]
        labels: list[Any] = [row % 2 for row in range(rows)]
        metadata: dict[bytes, bytes] | None = hub(["cat", "dog"])
        action = rng.randrange(8)
        if action == 0:
            content[rng.randrange(rows)] = rng.choice((None, b"", b"x", bomb(rng), b"\0" * 1000))
        elif action == 1:
            metadata = rng.choice(
                (None, {}, {b"huggingface": spoiled_bytes(metadata[b"huggingface"], rng)})
            )  # type: ignore[index]
        elif action == 2:
            metadata = hub(
                rng.choice(
                    (
                        ["cat", "dog", "emu"],
                        [],
                        ["a", "a"],
                        [1, 2],
                        7,
                        "ab",
                        None,
                        [None, {}],
                        rng.sample(EVIL, 2),
                    )
                )
            )  # type: ignore[arg-type]
        elif action == 3:
            labels, metadata = [rng.choice(EVIL) for _ in range(rows)], None
            labels = [labels[row % 2] for row in range(rows)] if rng.random() < 0.6 else labels
        elif action == 4:
            labels = rng.choice(([None] * rows, [-1] * rows, [2**63 - 1, 0] * 4, [5] * rows))
        elif action == 5:
            labels = pa.array([2**64 - 1, 0] * 4, pa.uint64()) if rng.random() < 0.5 else [[1]] * 8  # type: ignore[assignment]
        images = pa.array([{"bytes": data, "path": None} for data in content])
        data = parquet(
            images, labels, metadata, compression=rng.choice(("snappy", "zstd", "none"))
        )
        if rng.random() < 0.35:
            data = spoiled_bytes(data, rng, (1, 1, 2, 8))
        return Input("parquet", _of("parquet:train.parquet"), {"train.parquet": data})

    def folder(self, rng: random.Random) -> Input:
        """Classes whose folders have strange names."""
        names = {_file_name(rng.choice(EVIL), rng) for _ in range(rng.choice((1, 2, 2, 3)))}
        names |= {rng.choice(("cat", "train", "test", "val", ".hidden", "dog"))}
        files = {
            f"set/{name}/{_file_name(rng.choice(('x', *EVIL)), rng)[:40]}{row}.png": encoded(
                pixels(rng), "PNG"
            )
            for name in sorted(names)
            for row in range(2)
        }
        return Input("folders", _of("folder:set"), files)

    def names(self, rng: random.Random) -> Input:
        """Sound records in which strangers' texts stand wherever a record has text."""
        evil = [name for name in EVIL if name.strip() and len(name) < 200]
        records = [json.loads(json.dumps(one)) for one in rng.sample(self.records, 5)]
        used = tuple(rng.sample(evil, 4))
        for one in records[:3]:
            one["method"]["spec"] = one["method"]["name"] = used[0]
            one["method"]["deviations"] = [used[1]]
            one["task"] = one["task"] and one["task"] | {"data": used[2]}
            one["config"]["task"]["data"] = used[2]
        for one in records[2:]:
            if one["task"] is not None:
                one["task"]["classes"] = [used[3]] * len(one["task"]["classes"])
        files = {
            f"results/demo/runs/{one['hash']}.json": json.dumps(one).encode() for one in records
        }
        command = rng.choice(
            (
                ("leaderboard", "demo", "--picture", "case.svg"),
                ("leaderboard", "demo", "--picture", "case.svg", "--reference", used[0]),
                ("leaderboard", "demo", "--reference", rng.choice(EVIL).replace("\0", "")),
                ("points", records[0]["hash"]),
                ("timeline", records[0]["hash"]),
            )
        )
        command = tuple(part.replace("\0", "") for part in command)
        return Input("names", command, files, used)

    def kinds(self) -> dict[str, tuple[Maker, int]]:
        """Makers, and how many of every hundred inputs are theirs."""
        return {
            "suites": (self.suite, 22),
            "specs": (self.spec, 14),
            "distortions": (self.distortion, 8),
            "options": (self.option, 14),
            "records": (self.record, 16),
            "images": (self.image, 9),
            "parquet": (self.parquet, 7),
            "folders": (self.folder, 4),
            "names": (self.names, 6),
        }


def _own(*more: str) -> tuple[str, ...]:
    return ("run", "--data", "digits", "--steps", "20", "--seeds", "1", *RUN, *more)


def _of(data: str) -> tuple[str, ...]:
    return ("run", "--data", data, "--steps", "20", "--seeds", "1", "-m", "none", *RUN)


def _file_name(text: str, rng: random.Random) -> str:
    """What a file system takes as a name, at times no UTF-8."""
    text = text.replace("\0", "").replace("/", "_")[:200] or "_"
    if text in (".", ".."):
        text += "_"
    return text + ("\udcff" if rng.random() < 0.1 else "")


def bomb(rng: random.Random) -> bytes:
    """A small file that says it is a huge picture, or holds a huge text."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    side = rng.choice((100_000, 2**31 - 1, 20_000, 9_000))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, rng.choice((1, 8, 16)), 0, 0, 0, 0))
    texts = [chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 10**7))] * rng.choice((0, 1, 9))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 10**5))
    png = b"\x89PNG\r\n\x1a\n" + head + b"".join(texts) + body + chunk(b"IEND", b"")
    bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    bmp += struct.pack("<IiiHHIIiiII", 40, side, -side, 1, 24, 0, 0, 0, 0, 0, 0)
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    gif += b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\0;"
    ppm = b"P5\n%d %d\n255\n" % (side, side)
    return rng.choice((png, bmp, gif, ppm))


def materials(root: Path) -> Materials:
    """What this project itself gives to spoil."""
    from bench.cli.common import plugins
    from bench.plugins import options_of

    options = {name: options_of(plugin.method.Config()) for name, plugin in plugins(None).items()}
    paths = sorted((root / "results" / "quick" / "runs").glob("*.json"))
    records = [json.loads(path.read_bytes()) | {"suite": "demo"} for path in paths]
    digits = sorted((root / "results" / "digits" / "runs").glob("*.json"))
    learned = [json.loads(path.read_bytes()) for path in digits[:40]]
    records += [one | {"suite": "demo"} for one in learned if one["budget"] == 3.0]
    suites = [path.read_text() for path in sorted((root / "bench" / "suites").glob("*.toml"))]
    return Materials(options, records, suites)
