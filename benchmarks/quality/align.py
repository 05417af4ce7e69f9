"""Heads turned, scaled, bent in brightness and thickened, and things that are no T1 heads: does alignment find them?

    python -m oasisvq benchmark align HEAD... --copies 50 --json align.json

Each HEAD is a T1 volume that `align` takes. A copy of it is turned (each axis by up to 20 degrees), moved, scaled (by
up to a tenth along each axis), given a bias field (a quarter up and down), noise (3 % of white), voxels of 0.6 to 2 mm
or slices of up to 3 mm in a direction of its own, and axes in another order. Measured on every copy:

* turn and shift: the affine found, against the one found for the untouched head and what the copy is known to have gone
  through: the angle of the rotation that is left, and how far the middle of the levels moves;
* dice: its mask, brought back to the untouched head, against the mask found there;
* ssim and bits of the untouched heads: mean over the 32 levels, bits a code with the level given;
* seconds, of the clock and of the processor, on one thread;
* alone: seconds and memory of `python -m oasisvq align` for the first head in 256 x 256 x 256 voxels of 1 mm, the start
  of the program with them.

Wrong inputs must be refused: other contrasts, made of the same heads, half heads, label maps, noise, blobs.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from benchmarks._parser import new_parser
from oasisvq import OasisVQ, OasisVQError
from oasisvq.app.head import planes
from oasisvq.data.align import Aligned, BadFit, align
from oasisvq.data.frame import LEVELS, as_image, as_transform
from oasisvq.data.slices import to_model
from oasisvq.measure import metrics
from oasisvq.measure.record import write_record

AXES = ("RAS", "LPS", "LAS", "PIR", "ASL", "SRP", "IPL", "PSR")
ALONE = 256  # voxels a side of the head whose seconds and memory are measured
MIDDLE = np.array([0.0, 0.0, LEVELS / 2, 1.0])  # of the levels, in the frame
Volume = tuple[NDArray[np.floating], NDArray[np.floating]]


def turned(voxels: NDArray[np.floating], affine: NDArray[np.floating], rng: np.random.Generator) -> tuple[Volume, Any]:
    """A copy of a head, and the affine from the untouched head's millimetres to the copy's."""
    change = np.eye(4)
    change[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-20, 20, 3), degrees=True).as_matrix() @ np.diag(
        rng.uniform(0.9, 1.1, 3)
    )
    centre = (affine @ np.append(np.array(voxels.shape) / 2, 1))[:3]
    change[:3, 3] = centre - change[:3, :3] @ centre + rng.uniform(-20, 20, 3)
    voxel = np.full(3, rng.uniform(0.6, 2.0))
    if rng.random() < 0.5:
        voxel = np.full(3, rng.uniform(0.6, 1.2))
        voxel[rng.integers(3)] = rng.uniform(1.5, 3.0)

    size = np.linalg.norm(affine[:3, :3], axis=0)
    reach = np.abs(change[:3, :3] @ affine[:3, :3]) @ np.array(voxels.shape)
    shape = np.ceil(reach / voxel).astype(int)
    at = np.diag([*voxel, 1.0])
    at[:3, 3] = (change @ np.append(centre, 1))[:3] - at[:3, :3] @ (shape - 1) / 2
    grid = sitk.Image(shape.tolist(), sitk.sitkUInt8)
    grid.SetSpacing(voxel.tolist())
    grid.SetOrigin(at[:3, 3].tolist())
    blurred = ndimage.gaussian_filter(voxels, 0.35 * np.maximum(voxel - size, 0) / size)
    copy = sitk.GetArrayFromImage(sitk.Resample(as_image(blurred, affine), grid, as_transform(np.linalg.inv(change)))).T
    field = ndimage.zoom(rng.uniform(-1, 1, (3, 3, 3)), np.array(shape) / 3, order=3, grid_mode=True, mode="nearest")
    copy = copy * (1 + 0.25 * np.clip(field, -1, 1))
    white = np.percentile(copy[copy > 0], 99)
    noise = rng.normal(0, 0.03 * white, (2, *shape))
    copy = np.where(copy > 0, np.hypot(copy + noise[0], noise[1]), 0).astype(np.float32)
    return stored(copy, at, AXES[rng.integers(len(AXES))]), change


def stored(voxels: NDArray[np.floating], affine: NDArray[np.floating], axes: str) -> Volume:
    """The same volume with its axes in another order."""
    image = nibabel.Nifti1Image(voxels, affine)
    codes = nibabel.orientations.axcodes2ornt(axes)
    other = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), codes))
    return np.asarray(other.dataobj), other.affine


def wrong(name: str, head: Aligned, rng: np.random.Generator) -> Iterator[tuple[str, Volume]]:
    """Things that are no T1 head, most of them made from one."""
    voxels, mask, affine = head.voxels, head.mask, head.affine
    white = np.percentile(voxels[mask], 98)
    smooth = ndimage.gaussian_filter(voxels, 1) / white
    grain = rng.normal(0, 0.03 * white, voxels.shape)
    water = np.select([smooth < 0.45, smooth < 0.8], [1.0, 0.65], 0.45)
    half = voxels.copy()
    half[:, :, : int(np.flatnonzero(mask.any((0, 1))).mean())] = 0
    low, high = (int(np.quantile(np.flatnonzero(mask.any((0, 1))), q)) for q in (0.0, 0.45))
    yield f"{name}, as T2 shows it", ((water * white + grain) * mask, affine)
    yield f"{name}, inverted", ((white - voxels + grain) * mask, affine)
    yield f"{name}, flat as CT", ((0.5 * white + grain) * mask + 1.5 * voxels * ~mask, affine)
    yield f"{name}, its mask", (mask.astype(np.float32), affine)
    yield f"{name}, its mask with noise", ((white + 3 * grain) * mask, affine)
    yield f"{name}, the upper half", (half, affine)
    yield f"{name}, the lower part", (voxels[:, :, low:high], affine @ _moved(low))
    yield f"{name}, ten slices", (voxels[:, :, high : high + 10], affine @ _moved(high))
    yield f"{name}, upside down", (voxels[:, ::-1, ::-1], affine)


def nothing(rng: np.random.Generator) -> Iterator[tuple[str, Volume]]:
    """Things that have nothing to do with a head."""
    shape = (160, 180, 160)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    blob = (x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.75) ** 2 < 1
    clouds = ndimage.zoom(rng.uniform(0, 1, (9, 9, 9)), np.array(shape) / 9, order=1, grid_mode=True, mode="nearest")
    trunk = (x / 0.9) ** 2 + (y / 0.6) ** 2 + 0 * z < 1
    spine = (x / 0.12) ** 2 + ((y + 0.35) / 0.12) ** 2 + 0 * z < 1
    organs = np.where(spine, 0.2, 0.5 + 0.4 * (clouds > 0.55))
    yield "noise", (rng.uniform(0, 100, shape).astype(np.float32), np.eye(4))
    yield "a ball of noise", ((blob * rng.uniform(50, 100, shape)).astype(np.float32), np.eye(4))
    yield "a ball of clouds", ((blob * clouds * 100).astype(np.float32), np.eye(4))
    yield "a trunk", ((trunk * organs * 100 + rng.normal(0, 2, shape)).astype(np.float32), np.diag([2, 2, 2, 1.0]))
    yield "one slice", ((blob * clouds * 100).astype(np.float32)[:, :, 80:81], np.eye(4))


def _moved(slices: int) -> NDArray[np.floating]:
    up = np.eye(4)
    up[2, 3] = slices
    return up


def misplaced(found: Aligned, change: NDArray[np.floating], original: Aligned) -> tuple[float, float]:
    """Degrees and millimetres by which a copy's affine misses that of the untouched head."""
    left = found.fit.matrix @ change @ np.linalg.inv(original.fit.matrix)
    rotation, _ = Rotation.align_vectors(left[:3, :3].T, np.eye(3))
    return float(np.degrees(rotation.magnitude())), float(np.linalg.norm((left @ MIDDLE - MIDDLE)[:3]))


def overlap(found: Aligned, change: NDArray[np.floating], original: Aligned) -> float:
    """Dice of a copy's mask, brought back, with the mask of the untouched head."""
    mask = as_image(found.mask.astype(np.float32), found.affine)
    grid = as_image(original.mask.astype(np.float32), original.affine)
    back = sitk.GetArrayFromImage(sitk.Resample(mask, grid, as_transform(change))).T > 0.5
    return float(2 * (back & original.mask).sum() / (back.sum() + original.mask.sum()))


def reconstructed(model: OasisVQ, head: Aligned) -> dict[str, float]:
    """Mean SSIM over the levels, and bits a code with the level given."""
    slices = torch.from_numpy(to_model(head.levels, model.preset.size))[:, None]
    coded = model.reconstruct(slices)
    pairs = zip(slices[:, 0].numpy() + 0.5, coded.slices[:, 0].numpy() + 0.5, strict=True)
    bits = [float(model.surprise(coded.indices[k : k + 1], level=k).mean()) for k in range(LEVELS)]
    return {"ssim": float(np.mean([metrics.ssim(*pair) for pair in pairs])), "bits": float(np.mean(bits))}


def timed(voxels: NDArray[np.floating], affine: NDArray[np.floating]) -> tuple[Aligned, dict[str, float]]:
    """A head in the frame, and what that took."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = align(voxels, affine)
    return found, {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}


def refusal(volume: Volume) -> dict[str, Any]:
    """Why a wrong input was refused; None when it was not."""
    try:
        return {"refused": None, **align(*volume).fit.figures()}
    except OasisVQError as error:
        return {"refused": str(error)} | (error.fit.figures() if isinstance(error, BadFit) else {})


def alone(volume: Volume) -> dict[str, float]:
    """A head of ALONE voxels a side in a process of its own: seconds, and gigabytes at most."""
    voxels, affine = volume
    grid = sitk.Image(ALONE, ALONE, ALONE, sitk.sitkUInt8)
    middle = (affine @ np.append(np.array(voxels.shape) / 2, 1))[:3]
    grid.SetOrigin((middle - ALONE / 2).tolist())
    place = np.eye(4)
    place[:3, 3] = grid.GetOrigin()
    large = sitk.GetArrayFromImage(sitk.Resample(as_image(voxels, affine), grid)).T
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "head.nii.gz"
        nibabel.save(nibabel.Nifti1Image(large, place), file)
        began = time.perf_counter()
        command = [sys.executable, "-m", "oasisvq", "align", str(file), "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
    return {"alone_seconds": seconds, "alone_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6}


def figure(model: OasisVQ, head: Aligned, level: int = 20) -> Image.Image:
    """A head as it came, with mask and frame over it; one of its levels; what the model makes of that."""
    size = model.preset.size
    slices = torch.from_numpy(to_model(head.levels[level][None], size))[:, None]
    pictures = [Image.fromarray(plane) for plane in planes(head)]
    for grey in (head.levels[level], model.reconstruct(slices).slices[0, 0].numpy() + 0.5):
        whole = Image.fromarray(np.round(np.clip(grey, 0, 1) * 255).astype(np.uint8)).resize((256, 256))
        pictures.append(whole.crop((48, 24, 208, 232)))
    sheet = Image.new("RGB", (sum(picture.width + 8 for picture in pictures), max(p.height for p in pictures)))
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, (sheet.height - picture.height) // 2))
        left += picture.width + 8
    return sheet


def read(file: Path) -> Volume:
    image = nibabel.load(file)
    return np.asarray(image.dataobj, np.float32), image.affine  # type: ignore[attr-defined]


def main(argv: list[str]) -> None:
    parser = new_parser(__name__, __doc__)
    parser.add_argument("heads", type=Path, nargs="+", metavar="HEAD", help="T1 volumes, NIfTI")
    parser.add_argument("--wrong", type=Path, nargs="*", default=[], metavar="FILE", help="volumes to be refused")
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="base", metavar="DIR|NAME")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the last head: as it came, found, rebuilt")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    model = OasisVQ.from_pretrained(args.weights)
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        tqdm.write(", ".join(f"{key} {value}" for key, value in shown.items() if key != "matrix"))
        if args.json:
            write_record(args.json, summary(rows) | {"rows": rows})

    originals = {}
    for file in args.heads:
        found, took = timed(*read(file))
        originals[file] = found
        keep({"kind": "head", "name": file.name, **found.fit.figures(), **reconstructed(model, found), **took})
    if args.figure:
        figure(OasisVQ.from_pretrained(), found).save(args.figure, optimize=True)
    for file in args.wrong:
        keep({"kind": "wrong", "name": file.name, **refusal(read(file))})
    keep({"kind": "alone", "name": args.heads[0].name, **alone(read(args.heads[0]))})
    rng = np.random.default_rng(args.seed)
    first = next(iter(originals.values()))
    for name, volume in [*wrong("the first head", first, rng), *nothing(rng)]:
        keep({"kind": "wrong", "name": name, **refusal(volume)})
    for i in tqdm(range(args.copies), "copies", disable=None):
        file = args.heads[i % len(args.heads)]
        volume, change = turned(*read(file), np.random.default_rng([args.seed, i]))
        row: dict[str, Any] = {"kind": "copy", "name": f"{file.name}, copy {i}", "shape": list(volume[0].shape)}
        try:
            found, took = timed(*volume)
        except OasisVQError as error:
            keep(row | {"refused": str(error)} | (error.fit.figures() if isinstance(error, BadFit) else {}))
            continue
        turn, shift = misplaced(found, change, originals[file])
        row |= {"turn": turn, "shift": shift, "back": overlap(found, change, originals[file])}
        keep(row | found.fit.figures() | took)
    for key, value in summary(rows).items():
        print(f"{key:<24} {value}")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and worst over the copies, and shares refused."""
    copies = [row for row in rows if row["kind"] == "copy" and "turn" in row]
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in ("head", "wrong", "copy")}
    figures: dict[str, Any] = {
        "copies": len(of["copy"]),
        "good_refused": sum("turn" not in row for row in of["copy"]),
        "wrong": len(of["wrong"]),
        "wrong_refused": sum(row["refused"] is not None for row in of["wrong"]),
    }
    for row in rows:
        if row["kind"] == "alone":
            figures |= {"alone_seconds": row["alone_seconds"], "alone_gb": row["alone_gb"]}
    for key, worst in (("turn", max), ("shift", max), ("back", min), ("seconds", max), ("cpu_seconds", max)):
        if copies:
            at = worst(copies, key=lambda row, key=key: row[key])  # type: ignore[misc]
            figures |= {
                f"{key}_median": float(np.median([row[key] for row in copies])),
                f"{key}_worst": at[key],
                f"{key}_worst_is": at["name"],
            }
    return figures
