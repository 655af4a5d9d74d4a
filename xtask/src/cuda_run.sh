#!/bin/sh
# Runs what `cargo xtask cuda --pack` put into this folder, on a machine with an NVIDIA GPU. Logs go to $OUT, or to here.
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here}
chmod +x "$here/prove" "$here/golden" "$here/families" "$here/shape_speed" "$here/mlx-native"
status=0
"$here/shape_speed" --device cuda >"$out/shape_speed.log" 2>&1 || status=1
cat "$out/shape_speed.log"
"$here/prove" --device=cuda >"$out/prove.log" 2>&1 || status=1
tail -n 40 "$out/prove.log"
MLX_NATIVE_TEST_DEVICE=cuda "$here/golden" --test-threads 2 >"$out/golden.log" 2>&1 || status=1
tail -n 20 "$out/golden.log"
"$here/families" --device cuda >"$out/families.log" 2>&1 || status=1
tail -n 3 "$out/families.log"
for device in cuda cpu; do
  "$here/mlx-native" generate --device $device --max-tokens 200 --json >"$out/demo-$device.json" 2>&1 || status=1
done
exit $status
