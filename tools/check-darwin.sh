#!/bin/bash
# Type-check, lint, compile and link for aarch64-apple-darwin on Debian x86-64, without a Mac and without Apple's SDK.
# `cargo xtask check-metal` calls it; by hand it is used like cargo, in the folder of a crate or a workspace:
#
#   check-darwin.sh setup                           once: 1.5 minutes of CPU, 1 GB; the commands below do it by themselves
#   check-darwin.sh ready                           succeeds if that has been done
#   check-darwin.sh check  [cargo args]             type-check
#   check-darwin.sh clippy [cargo args] [-- args]   lint
#   check-darwin.sh build  [cargo args]             link: Mach-O arm64 programs, which cannot run here
#   check-darwin.sh test   [cargo args]             compile and link the tests, without running them
#
# How: rustup's std for the Mac may be out of reach, but Debian packages a rustc together with the sources of its std.
# They are unpacked (not installed), std is built once for the Mac, and rustup's rust-lld links against a stub of the SDK:
# text files that list symbols. A symbol that no stub lists is an "undefined symbol" at link, as a misspelt one should be;
# a real one that is missing is added to the lists below.
#
# Not seen by this: whether a selector exists at run time, and anything that only running shows. A dependency whose build
# script compiles C or C++ fails even in `check`, for want of Apple's headers.
#
# MLX_NATIVE_DARWIN_HOME: the cache folder, by default mlx-native/darwin in the user's cache. Nothing else is touched.
set -euo pipefail

TARGET=aarch64-apple-darwin
HOST=x86_64-unknown-linux-gnu
HOME_DIR=${MLX_NATIVE_DARWIN_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/mlx-native/darwin}
ROOT=$HOME_DIR/root            # Debian's rustc, unpacked; its sysroot gets the Mac's std
SDK=$HOME_DIR/sdk              # the stub SDK
BIN=$HOME_DIR/bin              # the linker's wrapper
STAMP=$HOME_DIR/ready          # written last: a set-up that was interrupted starts over
FORMAT=1                       # raise when `setup` makes something different
OLDEST_MINOR=89                # the workspace's rust-version is 1.89
ZIG=ziglang==0.17.1            # the wheel that carries libSystem.tbd

say() { echo "check-darwin: $*" >&2; }
die() { say "$*"; exit 1; }

# cargo, rust-lld and rust-objcopy come from the Rust toolchain in use.
TOOLCHAIN=$(readlink -f "$(rustc --print sysroot)")
CARGO_BIN=$TOOLCHAIN/bin/cargo

setup() {
  [ "$(uname -sm)" = "Linux x86_64" ] || die "needs Linux on x86-64, this is $(uname -sm)"
  local program
  for program in apt-get dpkg python3; do
    command -v "$program" >/dev/null || die "needs Debian's apt-get and dpkg, and python3 with pip: there is no $program"
  done
  [ -x "$TOOLCHAIN/lib/rustlib/$HOST/bin/rust-lld" ] || die "no rust-lld in $TOOLCHAIN: use a toolchain of rustup's"
  rm -rf "$STAMP" "$ROOT" "$SDK" "$HOME_DIR/tmp"
  mkdir -p "$ROOT" "$SDK/usr/lib" "$HOME_DIR/tmp/debs"
  unpack_debian_rustc
  write_wrappers
  build_std
  fetch_libsystem
  rm -rf "$HOME_DIR/tmp"
  echo "$FORMAT" > "$STAMP"
  say "ready: $("$RUSTC" -V), std for $TARGET, in $HOME_DIR"
}

unpack_debian_rustc() {
  local version minor llvm
  version=$(apt-cache policy rustc-web | sed -n 's/^ *Candidate: //p')
  if [ -z "$version" ] || [ "$version" = "(none)" ]; then
    die "apt knows no rustc-web package: run apt-get update; it is in Debian 12 and its security updates"
  fi
  minor=$(echo "$version" | sed -n 's/^1\.\([0-9]*\)\..*/\1/p')
  [ "${minor:-0}" -ge "$OLDEST_MINOR" ] || die "rustc-web $version is older than 1.$OLDEST_MINOR: run apt-get update"
  llvm=$(apt-cache depends "libstd-rust-web-1.$minor=$version" | sed -n 's/^ *Depends: \(libllvm[0-9]*\)$/\1/p' | head -n 1)
  say "downloading Debian's rustc $version and its sources"
  # Compiler and sources must be of one version: a std of another one does not compile.
  ( cd "$HOME_DIR/tmp/debs"
    # As root, apt downloads as a user who cannot write here, and warns that it does not: that is no defect.
    apt-get download -qq -o APT::Sandbox::User=root {rustc-web,"libstd-rust-web-1.$minor",libstd-rust-web-dev,rust-web-src,rust-web-clippy}="$version" ${llvm:+"$llvm"}
    for deb in *.deb; do dpkg -x "$deb" "$ROOT"; done )
  [ -f "$ROOT/usr/lib/rustlib/src/rust/library/Cargo.lock" ] || die "rust-web-src $version holds no sources of std"
}

# Builds std, panic_unwind, panic_abort, test and proc_macro for the Mac and puts them where rustup would have.
build_std() {
  local std=$HOME_DIR/tmp/std lib=$ROOT/usr/lib/rustlib/$TARGET/lib
  say "building std for $TARGET (a minute and a half)"
  mkdir -p "$std/src" "$lib"
  # embed-bitcode is what `lto = "thin"` reads; panic_abort is built as the sources' own workspace has it.
  cat > "$std/Cargo.toml" <<'TOML'
cargo-features = ["profile-rustflags"]
[package]
name = "zz-dummy"
version = "0.0.0"
edition = "2021"
[workspace]
[profile.release]
rustflags = ["-Cembed-bitcode=yes"]
[profile.release.package.panic_abort]
rustflags = ["-Cembed-bitcode=yes", "-Cpanic=abort"]
TOML
  : > "$std/src/lib.rs"
  ( cd "$std" && RUSTC_BOOTSTRAP=1 "$CARGO_BIN" build -q --release -Zbuild-std=std,panic_abort,test \
      --target "$TARGET" --target-dir "$std/target" )
  cp "$std/target/$TARGET/release/deps/"*.rlib "$lib/"
  rm -f "$lib"/libzz_dummy*
}

# libSystem has thousands of symbols; a Python wheel of the Zig compiler carries Apple's list of them.
fetch_libsystem() {
  say "downloading the list of libSystem's symbols"
  python3 -m pip download -q --disable-pip-version-check --no-deps -d "$HOME_DIR/tmp/wheel" "$ZIG"
  # The file has no plain arm64 and rust-lld rejects arm64e.x1: one becomes the other.
  python3 -c 'import sys, zipfile
sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("ziglang/lib/libc/darwin/libSystem.tbd"))' \
    "$HOME_DIR"/tmp/wheel/ziglang-*.whl | sed 's/arm64e\.x1-/arm64-/g' > "$SDK/usr/lib/libSystem.tbd"
  ln -sf libSystem.tbd "$SDK/usr/lib/libc.tbd"
  ln -sf libSystem.tbd "$SDK/usr/lib/libm.tbd"
}

# Written at every call, because the toolchain may have been updated since. rustc infers the linker's flavour from the
# name rust-lld; `rust-objcopy` strips release builds.
write_wrappers() {
  local from=$TOOLCHAIN/lib/rustlib/$HOST/bin to=$ROOT/usr/lib/rustlib/$HOST/bin
  mkdir -p "$BIN" "$to"
  printf '#!/bin/sh\nexec "%s/rust-lld" "$@" --error-limit=0\n' "$from" > "$BIN/rust-lld"
  printf '#!/bin/sh\nLD_LIBRARY_PATH="%s/lib" exec "%s/rust-objcopy" "$@"\n' "$TOOLCHAIN" "$from" > "$to/rust-objcopy"
  chmod +x "$BIN/rust-lld" "$to/rust-objcopy"
}

# stub PATH INSTALL_NAME SYMBOL...: a library that exports the C symbols named.
stub() {
  local path=$1 name=$2
  shift 2
  mkdir -p "$(dirname "$path")"
  { printf -- '--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n'
    printf "install-name: '%s'\ncurrent-version: 1\n" "$name"
    printf 'exports:\n  - targets: [ arm64-macos ]\n    symbols: [ %s ]\n...\n' "$(printf "'_%s', " "$@" | sed 's/, $//')"
  } > "$path.tbd"
}

framework() {
  local name=$1
  shift
  stub "$SDK/System/Library/Frameworks/$name.framework/$name" \
    "/System/Library/Frameworks/$name.framework/Versions/A/$name" "$@"
}

# Also written at every call, so that a symbol added here counts at once.
write_stubs() {
  local objc=(
    # messages and memory
    objc_msgSend objc_msgSendSuper objc_msgSendSuper2 objc_alloc objc_alloc_init objc_allocWithZone objc_opt_new
    objc_opt_class objc_opt_isKindOfClass objc_opt_respondsToSelector objc_retain objc_release objc_autorelease
    objc_retainAutorelease objc_retainAutoreleaseReturnValue objc_retainAutoreleasedReturnValue
    objc_autoreleaseReturnValue objc_unsafeClaimAutoreleasedReturnValue objc_retainBlock objc_storeStrong
    objc_autoreleasePoolPush objc_autoreleasePoolPop objc_initWeak objc_loadWeak objc_loadWeakRetained objc_storeWeak
    objc_copyWeak objc_moveWeak objc_destroyWeak objc_sync_enter objc_sync_exit objc_begin_catch objc_end_catch
    objc_exception_throw objc_exception_rethrow objc_terminate __objc_personality_v0 _objc_empty_cache
    # the runtime's tables
    objc_getClass objc_getMetaClass objc_lookUpClass objc_getRequiredClass objc_getClassList objc_copyClassList
    objc_getProtocol objc_copyProtocolList objc_allocateClassPair objc_registerClassPair objc_disposeClassPair
    objc_allocateProtocol objc_registerProtocol objc_getAssociatedObject objc_setAssociatedObject
    objc_removeAssociatedObjects objc_enumerationMutation
    class_getName class_isMetaClass class_getSuperclass class_getInstanceMethod class_getClassMethod
    class_getInstanceVariable class_getInstanceSize class_respondsToSelector class_conformsToProtocol
    class_copyIvarList class_copyMethodList class_copyPropertyList class_copyProtocolList class_createInstance
    class_addIvar class_addMethod class_addProtocol class_addProperty class_replaceMethod
    class_getMethodImplementation class_getProperty class_getVersion class_setVersion class_getImageName
    object_getClass object_getClassName object_setClass object_getIvar object_setIvar object_isClass object_copy
    object_dispose object_getIndexedIvars imp_implementationWithBlock imp_getBlock imp_removeBlock
    ivar_getName ivar_getOffset ivar_getTypeEncoding method_getName method_getImplementation method_setImplementation
    method_exchangeImplementations method_getTypeEncoding method_getNumberOfArguments method_copyReturnType
    method_copyArgumentType method_getReturnType method_getArgumentType property_getName property_getAttributes
    protocol_getName protocol_isEqual protocol_conformsToProtocol protocol_addProtocol protocol_addMethodDescription
    protocol_copyProtocolList protocol_copyMethodDescriptionList protocol_getMethodDescription
    sel_registerName sel_getName sel_getUid sel_isEqual sel_isMapped
  )
  local metal=(
    MTLCreateSystemDefaultDevice MTLCopyAllDevices MTLCopyAllDevicesWithObserver MTLRemoveDeviceObserver
    MTLCommonCounterTimestamp MTLCommonCounterSetTimestamp MTLCommonCounterSetStatistic
    MTLCommonCounterSetStageUtilization MTLCommonCounterComputeKernelInvocations MTLLibraryErrorDomain
    MTLCommandBufferErrorDomain MTLCommandBufferEncoderInfoErrorKey MTLBinaryArchiveDomain MTLCounterErrorDomain
    MTLCaptureErrorDomain MTLDynamicLibraryDomain
  )
  local foundation=(
    NSLog NSStringFromClass NSStringFromSelector NSClassFromString NSLocalizedDescriptionKey NSUnderlyingErrorKey
    NSCocoaErrorDomain NSPOSIXErrorDomain NSOSStatusErrorDomain NSGenericException NSRangeException
    NSInvalidArgumentException NSInternalInconsistencyException NSDefaultRunLoopMode NSRunLoopCommonModes NSPageSize
    NSHomeDirectory NSTemporaryDirectory
  )
  local core_foundation=(
    CFRetain CFRelease CFGetTypeID CFEqual CFHash CFCopyDescription kCFAllocatorDefault kCFAllocatorNull
    CFStringCreateWithCString CFStringGetCString CFArrayGetCount CFArrayGetValueAtIndex CFDictionaryGetValue
    CFDataGetBytePtr CFDataGetLength CFNumberGetValue __CFConstantStringClassReference
  )
  stub "$SDK/usr/lib/libobjc" /usr/lib/libobjc.A.dylib "${objc[@]}"
  stub "$SDK/usr/lib/libiconv" /usr/lib/libiconv.2.dylib iconv iconv_open iconv_close
  framework Metal "${metal[@]}"
  framework Foundation "${foundation[@]}"
  framework CoreFoundation "${core_foundation[@]}"
  framework CoreGraphics CGMainDisplayID CGDirectDisplayCopyCurrentMetalDevice
}

[ $# -ge 1 ] || die "usage: check-darwin.sh setup|ready|check|clippy|build|test [cargo args]"
command=$1
shift

is_ready() { [ "$(cat "$STAMP" 2>/dev/null)" = "$FORMAT" ]; }
if [ "$command" = ready ]; then is_ready && exit 0 || exit 1; fi

# What `cargo run` and a developer's shell may have set for the other compiler must not reach this one.
unset RUSTC_BOOTSTRAP RUSTFLAGS RUSTDOCFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTUP_TOOLCHAIN
export RUSTC=$ROOT/usr/bin/rustc RUSTDOC=$ROOT/usr/bin/rustdoc
export LD_LIBRARY_PATH=$ROOT/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export SDKROOT=$SDK CARGO_TARGET_AARCH64_APPLE_DARWIN_LINKER=$BIN/rust-lld
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME_DIR/target}

# One set-up at a time; later calls only wait for it.
mkdir -p "$HOME_DIR"
exec 9> "$HOME_DIR/lock"
flock 9
if [ "$command" = setup ] || ! is_ready; then setup; fi
write_wrappers
write_stubs
flock -u 9
exec 9>&-

case $command in
  setup) ;;
  check | build) exec "$CARGO_BIN" "$command" --target "$TARGET" "$@" ;;
  test) exec "$CARGO_BIN" test --no-run --target "$TARGET" "$@" ;;
  clippy) CARGO=$CARGO_BIN exec "$ROOT/usr/bin/cargo-clippy" clippy --target "$TARGET" "$@" ;;
  *) die "unknown command '$command'" ;;
esac
