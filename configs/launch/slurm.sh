#!/bin/bash
# A training run on a Slurm cluster, on one node or several, with a process for each GPU. Submit it from the activated
# environment, with the arguments of `erc-llm train`; options of sbatch replace those below:
#
#   sbatch configs/launch/slurm.sh llama2-7b-qlora corpus.path=FOLDER name=talks
#   sbatch --nodes=2 --gpus-per-node=4 configs/launch/slurm.sh llama2-7b-qlora corpus.path=FOLDER name=talks
#
# The run directory must be on a file system that all nodes share. A job that is preempted, loses a node or comes near
# its time limit is queued again and continues from its last checkpoint; `sbatch --no-requeue` prevents that.
#SBATCH --job-name=erc-llm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=erc-llm-%j.log
set -euo pipefail

# Slurm runs a copy of this script elsewhere, so the file beside it is found through the package.
launch=$(python -c 'from erc_llm.resources import configs_dir; print(configs_dir())')/launch
per_node=${SLURM_GPUS_ON_NODE:-1} # one process without a GPU
cores=${SLURM_CPUS_PER_TASK:-1}
read -r main_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # the first line; a pipe to head can fail
export OMP_NUM_THREADS=$((cores > per_node ? cores / per_node : 1))

trap 'scontrol requeue "$SLURM_JOB_ID"; wait' USR1 # two minutes before the time limit; see --signal above

# The single quotes are meant: every node puts its own number in.
# shellcheck disable=SC2016
srun --ntasks-per-node=1 --cpus-per-task="$cores" --kill-on-bad-exit=1 \
    bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' launch \
    --config_file "$launch/two-nodes.yaml" --num_machines "$SLURM_NNODES" \
    --num_processes $((SLURM_NNODES * per_node)) --main_process_ip "$main_node" \
    --main_process_port $((10000 + SLURM_JOB_ID % 20000)) \
    --no_python erc-llm train "$@" --resume &
wait $! # in the background, since bash runs a trap only after a command in the foreground has ended
