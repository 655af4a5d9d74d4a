#!/bin/sh
# Runs what `cargo xtask cuda --pack` put into this folder, on a machine with an NVIDIA GPU. Logs go to $OUT, or to here.
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here}
chmod +x "$here/prove" "$here/golden" "$here/mlx-native"
status=0
"$here/prove" >"$out/prove.log" 2>&1 || status=1
tail -n 40 "$out/prove.log"
"$here/golden" --test-threads 1 >"$out/golden.log" 2>&1 || status=1
tail -n 20 "$out/golden.log"
for device in cuda cpu; do
  "$here/mlx-native" generate --device $device --max-tokens 200 --json >"$out/demo-$device.json" 2>&1 || status=1
done
exit $status
