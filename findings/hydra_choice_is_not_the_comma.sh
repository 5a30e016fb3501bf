#!/usr/bin/env bash
# hydra-core 1.3.8, omegaconf 2.3.1: a sweep x=choice(a,b) differs from x=a,b.
#
# Expected: two ways to write one sweep, as Hydra's documentation of sweeps says; and that
#   g=glob(*) sweeps over what g=a can choose from.
# Seen: 1. x='1e3','2e3' gives text to the jobs; x=choice('1e3','2e3') gives them the numbers 1000.0
#   and 2000.0: quotes survive the comma and not the function. 2. x=null,1 gives None and 1;
#   x=choice(null,1) is refused, exit code 1. 3. g=sub/c chooses an option in a folder of the group;
#   g=glob(sub/*) matches nothing, launches 0 jobs and ends with exit code 0.
# What it did to us: folders named by numbers, such as data.root='2024_05', may not be passed on
#   as choice('2024_05'), which is 202405; a sweep over all experiments of a folder by glob ran
#   nothing and reported success.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hydra-core==1.3.8 omegaconf==2.3.1
cd "$folder"
mkdir -p conf/g/sub
printf 'defaults: [{g: a}, _self_]\nx: 1\n' > conf/config.yaml
echo 'n: 1' > conf/g/a.yaml
echo 'n: 3' > conf/g/sub/c.yaml
cat > app.py <<'PY'
import hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    print("JOB", repr(cfg.x), cfg.g.n)


main()
PY
sweep() {
    code=0
    venv/bin/python app.py -m hydra.output_subdir=null "$@" > out.txt 2> err.txt || code=$?
    echo "$* -> exit code $code: $(grep '^JOB' out.txt | tr '\n' ';')"
}
expect() { grep -qxF "$1" out.txt || { cat out.txt err.txt; exit 1; }; }

sweep "x='1e3','2e3'"
expect "JOB '1e3' 1"
sweep "x=choice('1e3','2e3')"
expect "JOB 1000.0 1"
sweep "x=null,1"
expect "JOB None 1"
sweep "x=choice(null,1)"
test "$code" = 1 && grep -q "NoneType is incompatible" err.txt
sweep "g=a,sub/c"
expect "JOB 1 3"
sweep "g=glob(sub/*)"
test "$code" = 0 && ! grep -q '^JOB' out.txt
