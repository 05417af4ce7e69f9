#!/usr/bin/env bash
# From data to verified weights, measured results and a model card. Run again after an interruption, it goes on.
#
# usage: train_all.sh [--data DIR] [--out DIR] [--preset NAME | --smoke] [--vqvae DIR] [--coarse DIR] [--start DIR]
#   --data DIR      slices in the keras_png_slices_data layout; without it the phantom cohort is prepared first
#   --out DIR       where the weights go (default runs/PRESET)
#   --preset NAME   base (default), heads, large or large-heads: see oasisvq/models/presets.py
#   --smoke         everything small, to see that it works
#   --vqvae DIR     finished weights whose VQ-VAE is taken as it is: the prior alone is trained
#   --coarse DIR    finished weights of the coarse stage of a cascade such as large (default: it is trained first)
#   --start DIR     weights whose prior this one starts from, as that of large-heads does from large's
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

data="" out="" vqvae="" coarse="" start="" preset=base people=(302 35 17)
while [ $# -gt 0 ]; do
  case $1 in
    --data | --out | --vqvae | --coarse | --start)
      [ $# -ge 2 ] || { echo "error: $1 needs a folder" >&2; exit 2; }
      declare "${1#--}=$(realpath -m "$2")"
      shift 2
      ;;
    --preset)
      [ $# -ge 2 ] || { echo "error: $1 needs a name" >&2; exit 2; }
      preset=$2
      shift 2
      ;;
    --smoke)
      preset=smoke
      shift
      ;;
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' "$here/train_all.sh"
      exit
      ;;
    *)
      echo "error: unknown option $1: see train_all.sh --help" >&2
      exit 2
      ;;
  esac
done
out=${out:-runs/$preset}
cd "$here"

# glibc gives freed memory back at once by default, and training pays for it in page faults (a third of its time).
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296
python=${PYTHON:-python}
oasisvq() { "$python" -m oasisvq "$@"; }

if [ -z "$data" ]; then
  data=data/phantom
  [ "$preset" != smoke ] || data=data/phantom-smoke people=(12 4 4)
  oasisvq prepare --out "$data" --people "${people[@]}"
fi
stage=$("$python" -c "
import sys
from oasisvq.models.presets import PRESETS
preset = PRESETS.get(sys.argv[1])
print(preset.coarse.name if preset and preset.coarse else '')" "$preset")
if [ -n "$stage" ] && [ -n "$vqvae" ] && [ -z "$coarse" ]; then
  echo "error: the VQ-VAE of $vqvae refines that of its coarse stage: name it with --coarse" >&2
  exit 2
fi
if [ -n "$vqvae" ] && { [ "$vqvae" -ef "$out" ] || [ -e "$out/state/vqvae.safetensors" ]; }; then
  echo "error: $out has a VQ-VAE of its own: choose another --out" >&2
  exit 2
fi
if [ -n "$stage" ] && [ -n "$coarse" ]; then
  mkdir -p "$out/coarse"
  if ! [ "$coarse" -ef "$out/coarse" ]; then
    for file in vqvae.safetensors prior.safetensors manifest.json; do
      [ -f "$coarse/$file" ] || { echo "error: $coarse/$file is missing: name finished weights with --coarse" >&2; exit 2; }
    done
    [ ! -e "$out/coarse/state" ] || { echo "error: $out/coarse was trained there: choose another --out" >&2; exit 2; }
    rm -f "$out"/coarse/{vqvae.safetensors,prior.safetensors,manifest.json} # links would be written through
    cp "$coarse"/{vqvae.safetensors,prior.safetensors,manifest.json} "$out/coarse"
  fi
elif [ -n "$stage" ]; then
  PYTHON=$python bash "$here/train_all.sh" --preset "$stage" --data "$data" --out "$(realpath -m "$out")/coarse"
fi
if [ -n "$vqvae" ]; then
  mkdir -p "$out/state/vqvae"
  rm -f "$out"/vqvae.{safetensors,jsonl} # links would be written through
  cp "$vqvae/vqvae.safetensors" "$out"
  [ ! -f "$vqvae/vqvae.jsonl" ] || cp "$vqvae/vqvae.jsonl" "$out"
  cp "$vqvae/manifest.json" "$out/state/vqvae"
else
  rm -rf "$out/state/vqvae"
  oasisvq train vqvae --preset "$preset" --data "$data" --out "$out"
fi
if [ -n "$start" ] && ! cmp -s "$start/vqvae.safetensors" "$out/vqvae.safetensors"; then
  echo "error: the VQ-VAE of $start is another: its prior knows other codes" >&2
  exit 1
fi
oasisvq train prior --preset "$preset" --data "$data" --out "$out" ${start:+--start "$start"}
oasisvq evaluate --weights "$out" --data "$data" --split test --json "$out/results.json"
oasisvq package "$out"
oasisvq verify "$out"
