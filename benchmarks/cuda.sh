#!/usr/bin/env bash
# The measurements on CUDA, in less than nine minutes: operators against the authors' algorithms, whole models against
# stock, candidates of neighbourhood attention against each other. AMP (float16), channels_last, eager and compiled.
#
#     benchmarks/cuda.sh [folder]              all stages, the most important first; by default into runs/bench/cuda
#     STAGES="compiled" benchmarks/cuda.sh     some of: models blocks neighborhood compiled
#     DEVICE=cpu benchmarks/cuda.sh            a rehearsal on the CPU with tiny sizes; its times mean nothing
#
# Each step is one `yolo-attn bench` command with a folder of its own and writes its CSV when it ends. SECONDS_IN_ALL
# (520; 7200 for a rehearsal) limits the whole: a step for which no time is left is reported as skipped.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${1:-runs/bench/cuda}
device=${DEVICE:-cuda}
if [ "$device" = cpu ]; then
  # Two blocks: those with kernels for CUDA. torch.compile does nothing, as it takes minutes per model on a CPU.
  export TORCHDYNAMO_DISABLE=1
  limit=${SECONDS_IN_ALL:-7200} papers=(sam acmix)
  dtype=bfloat16 imgsz=64 batches=(2 1) repeats=2
  maps_n=16x8x8 maps_m=48x8x8 compiled_scales=(n m)
else
  limit=${SECONDS_IN_ALL:-520} papers=(sam hilo sk attnconv acmix)
  dtype=float16 imgsz=640 batches=(64 16) repeats=10
  maps_n=n maps_m=m compiled_scales=(n m)
fi
operators=$(IFS=,; echo "${papers[*]}")
command=(${YOLO_ATTN:-yolo-attn} bench)
common=(device="$device" dtype="$dtype" channels_last=1 repeats="$repeats")
failed=0
mkdir -p "$out"

# step <folder> <arguments of bench>
step() {
  local folder=$1 start=$SECONDS left=$((limit - SECONDS)) code=0
  shift
  if [ "$left" -lt 15 ]; then
    echo "skipped, no time left: $folder"
    return
  fi
  mkdir -p "$out/$folder"
  timeout "$left" "${command[@]}" "$@" "${common[@]}" out="$out/$folder" >"$out/$folder/log.txt" 2>&1 || code=$?
  case $code in
    0) echo "$((SECONDS - start)) s: $folder" ;;
    124) echo "stopped, no time left: $folder" ;;
    *) echo "failed with $code: $folder: $(tail -1 "$out/$folder/log.txt")"; failed=1 ;;
  esac
}

# names <scale>: stock, and the papers' blocks in backbone and neck
names() {
  local all=yolov8$1 block
  for block in "${papers[@]}"; do all+=,yolov8$1-$block; done
  echo "$all"
}

models() {
  for batch in "${batches[@]}"; do
    for scale in n m; do
      step "models-$scale-batch$batch" models models="$(names $scale)" imgsz="$imgsz" batch="$batch" images="$batch" onnx=0
    done
  done
}

blocks() {
  for batch in "${batches[@]}"; do
    step "blocks-n-batch$batch" blocks block="$operators" shape="$maps_n" batch="$batch"
    step "blocks-m-batch$batch" blocks block="$operators" shape="$maps_m" batch="$batch"
  done
}

neighborhood() {
  # `tiled` is the default, so it is among the blocks, too; here all candidates follow each other closely. On the CPU,
  # which has a kernel of its own, the variable changes nothing.
  local candidate
  for candidate in tiled triton shifts flex; do
    YOLO_ATTN_NEIGHBORHOOD=$candidate step "neighborhood-$candidate" blocks block=acmix shape="$maps_n" batch="${batches[0]}"
  done
}

compiled() {
  for scale in "${compiled_scales[@]}"; do
    step "models-$scale-batch${batches[0]}-compiled" models models="$(names $scale)" imgsz="$imgsz" \
      batch="${batches[0]}" images="${batches[0]}" onnx=0 compile=1
  done
  step "blocks-n-batch${batches[0]}-compiled" blocks block="$operators" shape="$maps_n" \
    batch="${batches[0]}" compile=1
}

for stage in ${STAGES:-models neighborhood blocks compiled}; do
  case $stage in
    models | blocks | neighborhood | compiled) "$stage" ;;
    *) echo "STAGES: there is no stage '$stage'; it is one of models, blocks, neighborhood, compiled" >&2; exit 2 ;;
  esac
done
echo "$SECONDS s in all; CSV files: $(find "$out" -name '*.csv' | wc -l) in $out"
exit $failed
