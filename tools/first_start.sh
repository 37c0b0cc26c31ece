#!/usr/bin/env bash
# The first start after an installation, for each Python named: the locked requirements, the wheel, and commands from an
# empty folder. Without names: every python3.11, 3.12 and 3.13 on PATH.
#
#   tools/first_start.sh
#   tools/first_start.sh /usr/bin/python3.11 ~/.pyenv/versions/3.13.0/bin/python
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
pythons=("$@")
if [ ${#pythons[@]} -eq 0 ]; then
  for version in 3.11 3.12 3.13; do
    if command -v "python$version" >/dev/null; then pythons+=("python$version"); else echo "python$version: not on PATH"; fi
  done
fi
for python in "${pythons[@]}"; do
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  "$python" -m venv "$folder/env"
  "$folder/env/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$root/requirements.txt"
  mkdir "$folder/source" "$folder/empty"
  cp -rL "$root/diffusion" "$root/pyproject.toml" "$root/setup.py" "$root/README.md" "$root/LICENSE" "$folder/source"
  "$folder/env/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$folder/source"
  (
    cd "$folder/empty"
    unset PYTHONPATH
    export PATH="$folder/env/bin:$PATH" DIFFUSION_CACHE="$folder/cache"
    diffusion --version
    diffusion --help >help.txt
    diffusion train --config=digits:tiny --workdir=runs/digits >log.txt 2>&1 || { cat log.txt; exit 1; }
    diffusion sample --workdir=runs/digits >log.txt 2>&1 || { cat log.txt; exit 1; }
    diffusion evaluate --workdir=runs/digits >log.txt 2>&1 || { cat log.txt; exit 1; }
  )
  echo "$("$python" --version), jax $("$folder/env/bin/python" -c 'import jax; print(jax.__version__)'): first start passed"
  rm -rf "$folder"
done
