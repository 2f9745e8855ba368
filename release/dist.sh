#!/bin/sh
# Builds everything that a release consists of, for this machine's architecture, into target/dist.
# Two builds of a commit give the same files, wherever they are made with the same compiler.
#
# URL   where the binary of this architecture will be published. It is compiled in: `user-data` and
#       `cloudformation` print it. Without it the build stands for no URL, and both ask for --url.
set -eu
cd "$(dirname "$0")/.."
case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) echo "dist: no release is made for $(uname -m)" >&2; exit 1 ;;
esac
out=target/dist build=target/dist-build
target=$(uname -m)-unknown-linux-gnu
rm -rf "$out"
mkdir -p "$out"

K8S_BOOTSTRAP_COMMIT=$(git rev-parse HEAD)
git diff --quiet HEAD -- || K8S_BOOTSTRAP_COMMIT="$K8S_BOOTSTRAP_COMMIT with changes"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export K8S_BOOTSTRAP_COMMIT SOURCE_DATE_EPOCH
[ -z "${URL:-}" ] || export K8S_BOOTSTRAP_URL="$URL"

# Error messages have paths of sources; where those lie on this machine is nobody's concern, and would
# make every machine's build another one. The flags replace those of .cargo/config.toml.
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037' -Ctarget-feature=+crt-static \
    "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" "--remap-path-prefix=$PWD=/source")
CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%?}
export CARGO_ENCODED_RUSTFLAGS
cargo build --release --locked --target-dir "$build" --target "$target" --package k8s-bootstrap --package visits
unset CARGO_ENCODED_RUSTFLAGS

cp "$build/$target/release/k8s-bootstrap" "$out/k8s-bootstrap-linux-$arch"
cargo run --quiet --locked --example pages -- "$build/pages"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --create --directory "$build/pages" . |
    gzip -9n > "$out/k8s-bootstrap-pages.tar.gz" # completions, man pages, all settings
LAB_VISITS="$build/$target/release/visits" cargo run --quiet --locked --package lab -- \
    image --output "$out/visits-linux-$arch.tar"

command -v cargo-cyclonedx >/dev/null || cargo install --locked cargo-cyclonedx
cargo cyclonedx --quiet --format json --target "$target" --no-build-deps --override-filename sbom
sed "s|file://$PWD|file:///source|" sbom.json > "$out/k8s-bootstrap-linux-$arch.cdx.json"
sed "s|file://$PWD|file:///source|" app/sbom.json > "$out/visits-linux-$arch.cdx.json"
rm sbom.json app/sbom.json lab/sbom.json

cd "$out"
sums=$(sha256sum -- *)
printf '%s\n' "$sums" > "sha256sums-$arch.txt"
cat "sha256sums-$arch.txt"
