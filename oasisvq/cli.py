"""The command line: `oasisvq COMMAND`, or `python -m oasisvq COMMAND` in a clone.

One function a command, which returns its figures; `main` shows them.

What is heavy (torch, the models, the Hub's client) is imported by the command that needs it, so that help and typing
errors answer at once.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import io
import itertools
import json
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oasisvq import __version__
from oasisvq.errors import OasisVQError
from oasisvq.files import HOME
from oasisvq.models.presets import PRESETS, TOP_K, Preset

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from tqdm import tqdm

    from oasisvq.data.align import Aligned
    from oasisvq.data.dicom import Volume
    from oasisvq.pipeline import OasisVQ

Figures = dict[str, Any]
Command = Callable[..., argparse.ArgumentParser]

TRAINING = ("accelerate", "pytorch_msssim", "threadpoolctl")  # packages of the extra `train`
MEASURING = ("av", "monai", "playwright", "vector_quantize_pytorch")  # packages that only benchmarks need
SHIPPED = "folder or bundled weights (default: $OASISVQ_MODEL, else large)"
AGAIN = "nothing is half-written; run the same command again"
DRAWS_A_FILE = 2048  # so that a million draws need not fit in memory; `decode` reads files of this size


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 2 after an error of the user's (one line on stderr), or 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        figures = args.run(args)
        if os.environ.get("RANK", "0") == "0":  # of the processes that `accelerate launch` starts, one speaks
            _show(figures)
            if args.json:
                _write_json(args.json, figures)
    except OasisVQError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in TRAINING + MEASURING:
            raise
        what = "'oasisvq[train]'" if package in TRAINING else "-r requirements-dev.txt"
        print(f"error: {package} is missing: pip install {what}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ninterrupted: {args.resume}", file=sys.stderr)
        return 130
    return 0


def prepare(args: argparse.Namespace) -> Figures:
    from oasisvq.data.layout import describe
    from oasisvq.data.prepare import prepare_phantom, prepare_volumes, read_refused

    if args.volumes:
        prepare_volumes(args.volumes, args.out, seed=args.seed, subjects=args.subjects, workers=args.workers)
    else:
        prepare_phantom(args.out, people=tuple(args.people), seed=args.seed, workers=args.workers)
    refused = read_refused(args.out)
    _note([f"refused: {source}: {why}" for source, why in refused.items()])
    return describe(args.out) | {"refused": len(refused), "refused_why": refused}


def align(args: argparse.Namespace) -> Figures:
    import time

    from oasisvq.data.align import BadFit
    from oasisvq.data.upload import in_the_frame

    names = _names(args.files)
    rows: list[Figures] = []
    for file, name in zip(_progress(args.files, "aligning"), names, strict=True):
        began = time.perf_counter()
        row: Figures = {"file": str(file), "refused": None}
        try:
            volume = _volume(file, None if file.is_dir() else file.read_bytes())
            head = in_the_frame(volume)
            row |= head.fit.figures()
            _write_levels(args.out if len(names) == 1 else args.out / name, head, volume.oriented)
            if not volume.oriented:
                _note([f"{file}: its header gives no orientation, so which side is left is not known"])
        except (OasisVQError, OSError) as error:
            row |= {"litres": None, "dice": None, "matrix": None, "refused": str(error)}
            row |= error.fit.figures() if isinstance(error, BadFit) else {}
            if len(names) > 1:
                _note([f"refused: {file}: {error}"])
        rows.append(row | {"seconds": time.perf_counter() - began})
    refused = sum(row["refused"] is not None for row in rows)
    figures: Figures = {"heads": len(rows) - refused, "refused": refused, "out": str(args.out), "rows": rows}
    if refused == len(rows):
        if args.json:
            _write_json(args.json, figures)
        raise OasisVQError(f"{rows[0]['file']}: {rows[0]['refused']}" if refused == 1 else "every file was refused")
    return figures


def train(args: argparse.Namespace) -> Figures:
    from oasisvq.data.layout import describe
    from oasisvq.hub.manifest import write_manifest
    from oasisvq.training.loop import train_prior, train_vqvae
    from oasisvq.training.reproducibility import check_vqvae, trained

    if args.model == "prior":
        check_vqvae(args.out, PRESETS[args.preset], describe(args.data))
    run = {"vqvae": train_vqvae, "prior": train_prior}[args.model]
    weights = run(PRESETS[args.preset], args.data, args.out, precision=args.precision, start=args.start)
    if args.model == "prior" and os.environ.get("RANK", "0") == "0":
        write_manifest(args.out, *trained(args.out, describe(args.data)))
    history = [json.loads(line) for line in weights.with_suffix(".jsonl").read_text().splitlines()]
    return {
        "weights": str(weights),
        "epochs": len(history),
        "seconds": sum(h["seconds"] for h in history),
        **history[-1],
    }


def package(args: argparse.Namespace) -> Figures:
    from oasisvq.hub.card import model_card
    from oasisvq.hub.card_pictures import sheets
    from oasisvq.hub.manifest import CARD, PICTURE_FOLDER, list_records
    from oasisvq.hub.verification import verify
    from oasisvq.pipeline import OasisVQ

    list_records(args.folder)
    for name, picture in sheets(OasisVQ.from_pretrained(args.folder)).items():
        _write(args.folder / PICTURE_FOLDER / name, picture)
    _write(args.folder / CARD, model_card(args.folder).encode())
    return _files(verify(args.folder))


def verify(args: argparse.Namespace) -> Figures:
    from oasisvq.hub.verification import verify

    folder = _folder(args.folder)
    figures = _files(verify(folder))
    return figures | _measured_again(folder, args.data) if args.data else figures


def evaluate(args: argparse.Namespace) -> Figures:
    from oasisvq.measure.evaluation import evaluate
    from oasisvq.measure.record import circumstances
    from oasisvq.training.reproducibility import MEASURED

    return {MEASURED: circumstances(), **evaluate(_load(args), args.data, args.split)}


def encode(args: argparse.Namespace) -> Figures:
    import numpy as np

    from oasisvq.data.codes import LARGEST, write_codes

    model = _load(args)
    most = LARGEST // (2 * model.preset.codes)
    indices: list[np.ndarray] = []
    files: list[str] = []
    levels: list[int] = []
    for batch in _batches(_read(args.files), "encoding"):
        if len(files) + len(batch) > most:
            raise OasisVQError(f"more than the {most:,} slices that fit into a file: encode them in several")
        indices.append(model.encode(_as_tensor(batch, model.preset.size)).numpy().astype(np.uint16))
        files += [str(one.file) for one in batch]
        levels += [_level_or(one, model.preset, model.preset.levels) for one in batch]
    beside = {"files": np.array(files), "levels": np.array(levels)}
    _write(args.out, write_codes(np.concatenate(indices), _vqvae_sha256(model), **beside))
    grids = " + ".join(f"{height}x{width}" for height, width in model.preset.parts)
    return {"slices": len(files), "grid": grids, "out": str(args.out)}


def decode(args: argparse.Namespace) -> Figures:
    import torch

    from oasisvq.data.codes import read_codes

    names = _names(args.files)
    model = _load(args)
    preset, slices = model.preset, 0
    most = preset.join([torch.full((1, *stage.grid), stage.codebook_size) for stage in preset.stages])[0].numpy()
    for file, name in zip(args.files, names, strict=True):
        found = torch.from_numpy(read_codes(file.read_bytes(), str(file), preset.shape, most, _vqvae_sha256(model)))
        for start in _progress(range(0, len(found), 64), f"decoding {file.name}"):
            for i, picture in enumerate(model.decode(found[start : start + 64])[:, 0].numpy() + 0.5, start):
                _write_png(args.out / f"{name}_{i:05d}.png", picture, f"decoded by oasisvq from {preset.codes} codes")
        slices += len(found)
    return {"slices": slices, "out": str(args.out)}


def reconstruct(args: argparse.Namespace) -> Figures:
    import numpy as np

    from oasisvq.measure import metrics

    names = _names(args.files)
    if any((args.out / f"{name}.png").resolve() == f.resolve() for f, name in zip(args.files, names, strict=True)):
        raise OasisVQError(f"{args.out}: would overwrite the pictures themselves: choose another --out")
    model = _load(args)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in _progress(_unique(_read(args.files)), "reconstructing"):
        slices = _as_tensor([one], model.preset.size)
        coded = model.reconstruct(slices)
        original, picture = slices[0, 0].numpy() + 0.5, coded.slices[0, 0].numpy() + 0.5
        level = _level_or(one, model.preset, None)
        bits = float(model.surprise(coded.indices, level=level).sum())
        similarity = metrics.similarity(original, picture)
        rows.append(
            {
                "file": str(one.file),
                "level": level,
                "ssim": similarity.ssim,
                "ssim_foreground": similarity.foreground,
                "psnr": metrics.psnr(original, picture),
                "bits": bits,
            }
        )
        _write_png(args.out / f"{one.name}.png", picture, f"reconstructed by oasisvq from {model.preset.codes} codes")
    figures = ("ssim", "ssim_foreground", "psnr", "bits")
    means = {f"{key}_mean": float(np.mean([row[key] for row in rows])) for key in figures}
    return {"slices": len(rows), **means, "out": str(args.out), "rows": rows}


def compress(args: argparse.Namespace) -> Figures:
    import numpy as np

    from oasisvq.compress import SUFFIX, compress

    model = _load(args)
    preset = model.preset
    if args.level is not None and not 0 <= args.level < preset.levels:
        raise OasisVQError(f"level {args.level} does not exist: choose 0 (lowest) to {preset.levels - 1}")
    if args.head:
        return _compress_heads(model, args)
    _names(args.files)
    unknown = preset.levels if args.level is None else args.level
    sizes = []
    for batch in _batches(_unique(_read(args.files)), "compressing"):
        indices = model.encode(_as_tensor(batch, preset.size))
        levels = [_level_or(one, preset, unknown) for one in batch]
        for one, content in zip(batch, compress(model, indices, levels), strict=True):
            _write(args.out / f"{one.name}{SUFFIX}", content)
            sizes.append(len(content))
    means = {"bytes_mean": float(np.mean(sizes)), "bytes_plain": preset.plain_bits / 8}
    return {"slices": len(sizes), **means, "out": str(args.out)}


def _compress_heads(model: OasisVQ, args: argparse.Namespace) -> Figures:
    """A file for each volume, and one for all pictures together."""
    import torch

    from oasisvq.compress import SUFFIX, compress_head

    heads: dict[str, list[_Slice]] = {}
    for one in _read(args.files):
        name = "head" if one.level is None else re.sub(r"_level_\d\d$", "", one.name)
        heads.setdefault(name, []).append(one)
        first = heads[name][0]
        if first.file != one.file and {first.level, one.level} != {None}:
            raise OasisVQError(f"{one.file}: another file would also be written as {name}{SUFFIX}: do one at a time")
    sizes, slices = [], 0
    for name, head in _progress(list(heads.items()), "compressing"):
        codes = torch.cat(
            [model.encode(_as_tensor(head[i : i + 16], model.preset.size)) for i in range(0, len(head), 16)]
        )
        lowest = head[0].level if head[0].level is not None else args.level or 0
        content = compress_head(model, codes, lowest)
        _write(args.out / f"{name}{SUFFIX}", content)
        sizes.append(len(content))
        slices += len(head)
    per_slice = {"bytes_a_slice": sum(sizes) / slices, "bytes_plain": model.preset.plain_bits / 8}
    return {"heads": len(sizes), "slices": slices, **per_slice, "out": str(args.out)}


def decompress(args: argparse.Namespace) -> Figures:
    names = _names(args.files)
    written: set[str] = set()
    model = _load(args)
    for start in _progress(range(0, len(names), 64), "decompressing"):
        part = slice(start, start + 64)
        args.out.mkdir(parents=True, exist_ok=True)
        for name, picture in _decompressed(model, dict(zip(names[part], args.files[part], strict=True))):
            if name in written:
                raise OasisVQError(f"a slice and a level of a head are both called {name}: do one at a time")
            _write_png(args.out / f"{name}.png", picture, f"reconstructed by oasisvq from {model.preset.codes} codes")
            written.add(name)
    return {"slices": len(written), "out": str(args.out)}


def _decompressed(model: OasisVQ, files: Mapping[str, Path]) -> Iterator[tuple[str, np.ndarray]]:
    """The name and picture, (S, S), of every slice in files of slices and of heads."""
    from oasisvq.compress import HEAD, decompress, decompress_head

    contents = {name: file.read_bytes() for name, file in files.items()}
    single = {name: content for name, content in contents.items() if not content.startswith(HEAD)}
    found = decompress(model, {str(files[name]): content for name, content in single.items()})
    yield from zip(single, model.decode(found)[:, 0].numpy() + 0.5, strict=True)
    for name in contents.keys() - single.keys():
        indices, lowest = decompress_head(model, str(files[name]), contents[name])
        for level, grid in enumerate(indices, lowest):
            yield f"{name}_level_{level:02d}", model.decode(grid[None])[0, 0].numpy() + 0.5


def sample(args: argparse.Namespace) -> Figures:
    import numpy as np
    from tqdm import tqdm

    model = _load(args)
    args.out.mkdir(parents=True, exist_ok=True)
    mine = _share(range(args.first, args.first + args.count))
    if args.head:
        return _draw_heads(model, args, mine)
    if args.near and len(mine) < args.count:
        raise OasisVQError("--near looks at all draws together: leave out accelerate launch")
    training = _training_codes(model, args.near) if args.near else None
    distances: list[float] = []
    bar = tqdm(total=len(mine) * model.preset.codes, desc="drawing", unit="code", disable=None, leave=False)
    with bar:
        for start in range(mine.start, mine.stop, DRAWS_A_FILE):
            draws = range(start, min(start + DRAWS_A_FILE, mine.stop))
            indices = _draw(model, args, draws, bar)
            if training is not None:
                distances += model.nearest(indices, training).tolist()
    figures: Figures = {"draws": args.count, "first": args.first, "seed": args.seed, "out": str(args.out)}
    if distances:
        near = {"nearest_least": min(distances), "nearest_median": float(np.median(distances)), "nearest": distances}
        figures |= near
    return figures


def _draw_heads(model: OasisVQ, args: argparse.Namespace, draws: range) -> Figures:
    """A folder for each head with its levels as PNG and its codes, and beside it a NIfTI file."""
    from tqdm import tqdm

    from oasisvq.data.codes import write_codes
    from oasisvq.data.frame import as_nifti

    if args.level is not None or args.near:
        raise OasisVQError("--head draws every level, and looks for no near people: leave out --level and --near")
    stages = len(model.stages)
    with tqdm(total=len(draws) * model.preset.levels * stages, desc="drawing", unit="level", disable=None) as bar:
        for draw in draws:
            folder = args.out / f"head_{draw:05d}"
            head = model.sample_head(
                seed=args.seed,
                temperature=args.temperature,
                top_k=args.top_k or None,
                grade=args.grade,
                first=draw,
                on_level=lambda *_: bar.update(),
            )
            how = f"drawn by oasisvq: seed {args.seed}, head {draw}, temperature {args.temperature:g}, no real person"
            levels = head.slices[0, :, 0].numpy() + 0.5
            for level, picture in enumerate(levels):
                _write_png(folder / f"level_{level:02d}.png", picture, f"{how}, level {level}")
            _write(folder / "codes.npz", write_codes(head.indices[0].numpy(), _vqvae_sha256(model), head=draw))
            _write(args.out / f"{folder.name}.nii.gz", as_nifti(levels))
    return {"heads": args.count, "first": args.first, "seed": args.seed, "out": str(args.out)}


def _draw(model: OasisVQ, args: argparse.Namespace, draws: range, bar: tqdm[Any]) -> Tensor:
    """Writes the pictures of draws, and their codes in one file, also those drawn before an interruption."""
    import torch

    from oasisvq.data.codes import write_codes

    drawn: list[Tensor] = []
    try:
        for start in range(draws.start, draws.stop, args.batch):
            n = min(args.batch, draws.stop - start)
            coded = model.sample(
                n,
                seed=args.seed,
                temperature=args.temperature,
                top_k=TOP_K if args.top_k is None else args.top_k or None,
                level=args.level,
                grade=args.grade,
                first=start,
                on_step=lambda *_, n=n: bar.update(n),
            )
            for i, picture in enumerate(coded.slices[:, 0].numpy() + 0.5, start):
                how = f"drawn by oasisvq: seed {args.seed}, draw {i}, temperature {args.temperature:g}, no real person"
                _write_png(args.out / f"draw_{i:05d}.png", picture, how)
            drawn.append(coded.indices)
    finally:
        if drawn:
            codes = write_codes(torch.cat(drawn).numpy(), _vqvae_sha256(model), first=draws.start)
            _write(args.out / f"codes_{draws.start:05d}.npz", codes)
    return torch.cat(drawn)


def _share(draws: range) -> range:
    """The draws of this process: all, or its part where `accelerate launch` started several and numbered them."""
    rank, processes = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return draws[len(draws) * rank // processes : len(draws) * (rank + 1) // processes]


def _training_codes(model: OasisVQ, data: Path) -> Tensor:
    import torch

    from oasisvq.data.layout import load_for

    slices = torch.from_numpy(load_for(model.preset, data, "train").slices)[:, None]
    return torch.cat([model.encode(part) for part in _progress(slices.split(64), "coding the training people")])


def publish(args: argparse.Namespace) -> Figures:
    from oasisvq.hub.publish import publish, publish_space

    if args.space:
        if args.weights:
            raise OasisVQError("a Space holds the app with all bundled weights: leave out --weights")
        revision = publish_space(args.repo, private=args.private)
        return {"space": args.repo, "revision": revision}
    revision = publish(_folder(args.weights), args.repo, private=args.private)
    return {"repo": args.repo, "revision": revision}


def pull(args: argparse.Namespace) -> Figures:
    from oasisvq.hub import sources

    repo = args.repo or os.environ.get("OASISVQ_HUB_REPO")
    if not repo:
        raise OasisVQError("pull from where? Name a Hub repository, or set OASISVQ_HUB_REPO")
    pinned = None if args.repo else os.environ.get("OASISVQ_HUB_REVISION")  # of the repository of the environment
    found = sources.resolve(repo, args.revision or pinned)
    _note(found.notes)
    return {"repo": repo, "revision": found.revision, "from": found.source, "folder": str(found.folder)}


def app(args: argparse.Namespace) -> Figures:
    # As `streamlit run` does, in this process.
    sys.argv = ["streamlit", "run", str(HOME / "app.py"), *args.options]
    runpy.run_module("streamlit", run_name="__main__")
    return {}


def benchmark(args: argparse.Namespace) -> Figures:
    name = _benchmarks().get(args.what, "benchmarks")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise OasisVQError(f"{args.what} comes with the repository: run this from a clone of it") from error
    module.main(args.options)
    return {}


def _benchmarks() -> dict[str, str]:
    """The modules of all benchmarks by name. There are none but in a clone."""
    paths = sorted((HOME / "benchmarks").rglob("[!_]*.py"), key=lambda path: path.stem)
    return {path.stem: ".".join(path.relative_to(HOME).with_suffix("").parts) for path in paths}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("oasisvq", description="Discrete codes for brain MRI slices.")
    parser.add_argument("--version", action="version", version=f"oasisvq {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_app(commands)
    for add in (_add_training, _add_slices, _add_sharing):
        add(partial(_command, commands))
    _add_benchmark(commands)
    return parser


def _command(commands: Any, name: str, run: Any, help: str, resume: str = AGAIN) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    sub.set_defaults(run=run, resume=resume)
    sub.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    return sub


def takes_weights(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--weights", metavar="DIR|NAME|REPO", help="folder, bundled or Hub repository (default: as configured)"
    )
    sub.add_argument("--revision", help="commit of the Hub repository")


def _takes_files(
    sub: argparse.ArgumentParser, files: str | None, out: str, metavar: str = "FILE", to: str = "DIR"
) -> None:
    sub.add_argument("files", type=Path, nargs="+", metavar=metavar, help=files)
    sub.add_argument("--out", type=Path, required=True, metavar=to, help=out)


def _add_app(commands: Any) -> None:
    sub = commands.add_parser(
        "app",
        help="open the app in a browser",
        description="Open the app in a browser. Streamlit's options come after --: oasisvq app -- --server.port 8600",
    )
    sub.add_argument("options", nargs="*", metavar="-- OPTION", help="for `streamlit run`")
    sub.set_defaults(run=app, resume=AGAIN, json=None)


def _add_training(command: Command) -> None:
    sub = command(
        "prepare",
        prepare,
        "write the phantom cohort, or volumes of yours, as a folder of slices",
        "run the same command again, it goes on with the people that are missing",
    )
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    sub.add_argument("--volumes", type=Path, metavar="DIR", help="OASIS-1 discs, or a folder of NIfTI T1 heads")
    sub.add_argument("--subjects", type=Path, metavar="CSV", help="table of ID and CDR (default: the one among them)")
    sub.add_argument("--people", type=_count, nargs=3, default=(302, 35, 17), metavar=("TRAIN", "VALIDATE", "TEST"))
    sub.add_argument("--seed", type=int, default=0, help="of the phantom people, or of the split of the volumes")
    sub.add_argument("--workers", type=_count, metavar="N", help="processes (default: one a core; a head needs 1.7 GB)")

    going_on = "run the same command again, it goes on after the last whole epoch"
    sub = command("train", train, "train one of the two models", going_on)
    sub.add_argument("model", choices=("vqvae", "prior"), help="the prior needs the VQ-VAE in --out")
    sub.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of slices, as prepare writes it")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for weights, logs and checkpoints")
    sub.add_argument("--preset", choices=tuple(PRESETS), default="base")
    sub.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    sub.add_argument("--start", type=Path, metavar="DIR", help="weights to begin with, such as checkpoints/base")

    sub = command("package", package, "list what was measured in the manifest, and write the model card")
    sub.add_argument("folder", type=Path, metavar="DIR", help="the --out of train")

    sub = command("verify", verify, "check weights against their manifest, and results against a fresh evaluation")
    sub.add_argument("folder", nargs="?", metavar="DIR|NAME", help=SHIPPED)
    sub.add_argument("--data", type=Path, metavar="DIR", help="measure again on these slices: is results.json true?")

    sub = command("evaluate", evaluate, "measure reconstruction and prior on people")
    sub.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of slices")
    sub.add_argument("--split", choices=("train", "validate", "test"), default="test")
    takes_weights(sub)


def _add_slices(command: Command) -> None:
    sub = command("align", align, "bring T1 heads, skull on or off, into the frame of the training slices")
    levels = "gets level_00.png to level_31.png and aligned.nii.gz; of several files, a folder each"
    _takes_files(sub, "NIfTI, DICOM folder, or zip of a series", levels)

    volumes = "PNG, JPEG or TIFF slice; or a T1 head (NIfTI, DICOM folder, zip), of which 32 levels are taken"
    sub = command("encode", encode, "turn slices or heads into codes")
    _takes_files(sub, volumes, "gets `indices` (N, h, w), `files`, `levels`", to="FILE.npz")
    takes_weights(sub)

    sub = command("decode", decode, "turn files of codes, from encode, sample or the app, into pictures")
    _takes_files(sub, None, "gets FILE_00000.png and so on", "FILE.npz")
    takes_weights(sub)

    sub = command("reconstruct", reconstruct, "encode and decode slices or heads, and say what was lost")
    _takes_files(sub, volumes, "gets one PNG a slice")
    takes_weights(sub)

    sub = command("compress", compress, "turn slices or heads into files of a few hundred bytes a slice or less")
    _takes_files(sub, volumes, "gets one .ovq a slice, or a head")
    sub.add_argument("--level", type=int, help="0 (lowest) to 31 of all pictures: smaller files, where it is known")
    sub.add_argument(
        "--head",
        action="store_true",
        help="one file for each head, or for all pictures, which are levels in succession from --level (default 0); "
        "with --weights heads or large-heads",
    )
    takes_weights(sub)

    sub = command("decompress", decompress, "turn files of compress into pictures again, with the same weights")
    _takes_files(sub, None, "gets one PNG a slice")
    takes_weights(sub)

    rest = "the draws so far are kept; draw the rest with --first and --count"
    sub = command("sample", sample, "draw new slices from the prior", rest)
    sub.add_argument("--count", type=_count, required=True, help="how many draws")
    sub.add_argument(
        "--head",
        action="store_true",
        help="draw whole heads, with --weights heads or large-heads: gets head_00000/level_00.png ... and .nii.gz",
    )
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets draw_00000.png ... and their codes")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--first", type=int, default=0, metavar="N", help="number of the first draw of this seed")
    sub.add_argument("--level", type=int, help="0 (lowest) to 31 (default: the model chooses)")
    sub.add_argument("--grade", type=float, help="clinical dementia rating 0, 0.5, 1 or 2 (default: the model chooses)")
    sub.add_argument("--temperature", type=float, default=1.0)
    sub.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help=f"only the K likeliest codes at each position, 0: all (default: {TOP_K}, with --head all)",
    )
    sub.add_argument("--batch", type=_count, default=16, help="draws at a time; changes speed alone")
    sub.add_argument(
        "--near", type=Path, metavar="DIR", help="tell how far each draw is from the training people of DIR"
    )
    takes_weights(sub)


def _add_sharing(command: Command) -> None:
    sub = command("publish", publish, "upload weights and model card, or the app, to the Hugging Face Hub")
    sub.add_argument("repo", metavar="REPO", help="owner/name")
    sub.add_argument("--weights", metavar="DIR|NAME", help=SHIPPED)
    sub.add_argument("--private", action="store_true", help="if the repository is made now")
    sub.add_argument("--space", action="store_true", help="the app, as a Space of the docker kind, instead of weights")

    sub = command("pull", pull, "download weights from the Hub, or find them in the cache, and verify them")
    sub.add_argument("repo", nargs="?", metavar="REPO", help="owner/name (default: OASISVQ_HUB_REPO)")
    sub.add_argument("--revision", help="commit, tag or branch (default: OASISVQ_HUB_REVISION, else the newest)")


def _add_benchmark(commands: Any) -> None:
    sub = commands.add_parser(
        "benchmark",
        help="measure speed, draws, lesions, refills, rates, the phantom cohort; try to break it",
        description="Options after the name are its own: see `benchmark NAME --help`.",
    )
    sub.add_argument("what", choices=list(_benchmarks()) or None)
    sub.add_argument("options", nargs=argparse.REMAINDER)
    sub.set_defaults(run=benchmark, resume=AGAIN, json=None)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return value


def _folder(source: str | None) -> Path:
    from oasisvq.hub import sources

    folder = sources.at_hand(source or sources.DEFAULT)
    if folder is None:
        names = ", ".join(sources.bundled()) or "nothing is"
        raise OasisVQError(f"{source or sources.DEFAULT}: no such folder, and not bundled: {names}")
    return folder


def _load(args: argparse.Namespace) -> OasisVQ:
    from oasisvq.pipeline import OasisVQ

    model = OasisVQ.from_pretrained(args.weights, args.revision)
    _note(model.info["notes"])
    return model


class _Slice(NamedTuple):
    """One slice to be coded: what to call it, where it comes from, its level if that is known, (256, 256) in [0, 1]."""

    name: str
    file: Path
    level: int | None
    picture: np.ndarray


def _read(files: Sequence[Path]) -> Iterator[_Slice]:
    """Pictures as they are, and of each head the 32 levels."""
    from oasisvq.data import upload

    for file in files:
        name, content = _name(file), None if file.is_dir() else file.read_bytes()
        if content is not None and not upload.is_volume(content):
            yield _Slice(name, file, None, upload.read_image(content, str(file)))
            continue
        try:
            volume = _volume(file, content)
            if volume.voxels.shape[2] == 1:
                yield _Slice(name, file, None, upload.as_it_lies(volume).stack[0])
                continue
            levels = upload.in_the_frame(volume).levels
        except OasisVQError as error:
            raise OasisVQError(f"{file}: {error}") from error
        yield from (_Slice(f"{name}_level_{k:02d}", file, k, level) for k, level in enumerate(levels))


def _unique(slices: Iterable[_Slice]) -> Iterator[_Slice]:
    """The slices, up to one that would be written over another: a picture may be called like a level of a head."""
    files: dict[str, Path] = {}
    for one in slices:
        if other := files.get(one.name):
            raise OasisVQError(f"{other} and {one.file} would both be written as {one.name}: do one at a time")
        files[one.name] = one.file
        yield one


def _level_or(one: _Slice, preset: Preset, unknown: Any) -> Any:
    """The level of a slice, for a model that knows levels of heads; else the value for unknown."""
    return unknown if one.level is None or one.level >= preset.levels else one.level


def _volume(file: Path, content: bytes | None) -> Volume:
    """The volume in the content of a file, or, without any, in a folder of DICOM files."""
    from oasisvq.data import dicom, upload

    return dicom.read_apart(dicom.packed(file)) if content is None else upload.read_volume(content)


def _batches(slices: Iterator[_Slice], label: str) -> Iterator[list[_Slice]]:
    """Up to 64 at a time."""
    with _progress(None, label) as bar:
        while batch := list(itertools.islice(slices, 64)):
            yield batch
            bar.update(len(batch))


def _as_tensor(slices: Sequence[_Slice], size: int) -> Tensor:
    """As the model reads them: (N, 1, size, size) in [-0.5, 0.5]."""
    import numpy as np
    import torch

    from oasisvq.data.slices import to_model

    return torch.from_numpy(np.concatenate([to_model(one.picture[None], size) for one in slices]))[:, None]


def _measured_again(folder: Path, data: Path) -> Figures:
    """Whether `results.json` says what a fresh evaluation says."""
    from oasisvq.measure.evaluation import evaluate
    from oasisvq.pipeline import OasisVQ
    from oasisvq.training.reproducibility import TOLERANCE, compare

    model = OasisVQ.from_pretrained(folder)
    stated = model.info["results"]
    if stated is None:
        raise OasisVQError(f"{folder} holds no results: run `python -m oasisvq evaluate --json` and package first")
    found = compare(stated, evaluate(model, data, stated["split"]))
    return {
        "results": f"all {found['figures']} figures agree within {TOLERANCE:g}, the farthest by "
        f"{found['largest_difference']:.1%} of that"
    }


def _files(manifest: Figures) -> Figures:
    rows = {name: f"{stamp['bytes']:,} bytes, sha256 {stamp['sha256']}" for name, stamp in manifest["files"].items()}
    return {"preset": manifest["preset"]["name"], "data": manifest["data"]["name"], **rows}


def _write(path: Path, content: bytes) -> None:
    from oasisvq.files import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def _vqvae_sha256(model: OasisVQ) -> str:
    """Of the VQ-VAE: what files of codes name."""
    return model.info["files"]["vqvae.safetensors"]["sha256"]


def _write_json(path: Path, figures: Figures) -> None:
    _write(path, (json.dumps(figures, indent=2) + "\n").encode())


def _write_levels(folder: Path, head: Aligned, oriented: bool) -> None:
    """level_00.png to level_31.png as training slices are, and aligned.nii.gz, the same in millimetres of the frame.

    Of a head whose header gives no orientation `aligned.nii.gz` claims none, so that no viewer names a left side.
    """
    import nibabel
    import numpy as np
    from PIL import Image

    from oasisvq.data.frame import FRAME

    for number, picture in enumerate(head.levels):
        content = io.BytesIO()
        Image.fromarray(np.round(picture * 255).astype(np.uint8)).save(content, "PNG")
        _write(folder / f"level_{number:02d}.png", content.getvalue())
    volume = nibabel.Nifti1Image(head.levels[:, ::-1].T, FRAME)  # columns, rows upwards, levels
    code = "aligned" if oriented else "unknown"
    volume.set_sform(FRAME, code)
    volume.set_qform(FRAME, code)
    volume.header.set_xyzt_units("mm")
    _write(folder / "aligned.nii.gz", gzip.compress(volume.to_bytes(), mtime=0))


def _write_png(path: Path, picture: np.ndarray, how: str) -> None:
    """A picture in [0, 1] as 8-bit grey. What it is travels inside the file: it could pass for a scan."""
    import numpy as np
    from PIL import Image, PngImagePlugin

    words = PngImagePlugin.PngInfo()
    words.add_text("Synthetic", f"{how}. Research and teaching only, not for diagnosis.")
    buffer = io.BytesIO()
    Image.fromarray(np.round(picture * 255).astype(np.uint8)).save(buffer, "PNG", pnginfo=words)
    _write(path, buffer.getvalue())


# Endings of files that are read. Any other belongs to the name: IM.0001 and IM.0002 are two.
_ENDINGS = re.compile(r"(\.nii)?\.(gz|png|jpe?g|tiff?)$|\.(nii|dcm|ima|zip|npz|ovq)$", re.IGNORECASE)


def _name(file: Path) -> str:
    """What a file is called without its ending; a folder as it is."""
    return file.name if file.is_dir() else _ENDINGS.sub("", file.name)


def _names(files: Sequence[Path]) -> list[str]:
    """What files are called without their endings. Raises OasisVQError when two would be written as one."""
    names = [_name(file) for file in files]
    for name in names:
        if names.count(name) > 1:
            raise OasisVQError(
                f"two files are called {name}: what is made of them would have one name, do one at a time"
            )
    return names


def _progress(items: Any, label: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, label, disable=None, leave=False)


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _show(figures: Figures) -> None:
    """The plain values among the figures, a line each, intervals beside their means; the rest is for --json."""
    rows = {}
    for key, value in figures.items():
        if key.endswith("_sd"):
            continue
        if isinstance(value, float):
            low_high = figures.get(f"{key.removesuffix('_mean')}_ci95")
            rows[key] = f"{value:.4g}" + (
                f"  (95 % interval {low_high[0]:.4g} to {low_high[1]:.4g})" if low_high else ""
            )
        elif isinstance(value, int):
            rows[key] = f"{value:,}"
        elif isinstance(value, str):
            rows[key] = value
        elif isinstance(value, dict) and all(isinstance(v, int | str) for v in value.values()):
            rows[key] = ", ".join(f"{name} {v}" for name, v in value.items())
    width = max(map(len, rows), default=0)
    for key, text in rows.items():
        print(f"{key.replace('_', ' '):<{width}}  {text}")
