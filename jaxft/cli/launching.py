"""The verb `launch`: its options, what it calls and prints."""

from __future__ import annotations

import argparse
import json
import sys

TARGETS = ("tpu-vm", "gke", "xpk", "slurm", "skypilot", "gpu-host", "docker")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `jaxft launch`."""
    parser.add_argument("target", choices=TARGETS, help="where to")
    parser.add_argument("recipe", help="a YAML file, or a name out of `jaxft recipes ls`")
    parser.add_argument("overrides", nargs="*", help="like training.seed=1")
    parser.add_argument("--dry-run", action="store_true", help="print the files and commands, do nothing")
    parser.add_argument("--topology", help="v5e-16, v5p:4x4x8, h100-16 ...: kind and number of chips, or shape")
    parser.add_argument("--slices", type=int, default=1, help="TPU slices of that topology (default: %(default)s)")
    parser.add_argument(
        "--storage",
        metavar="WHERE",
        help="what all machines share: gs://BUCKET/DIRECTORY, or a directory (default: ., where they see it)",
    )
    parser.add_argument("--output", metavar="DIR", help="for the files (default: launches/<name>/<target>)")
    parser.add_argument("--install", metavar="REQUIREMENT", help="what pip installs for jaxft (default: this version)")
    parser.add_argument("--image", metavar="NAME:TAG", help="of a container with jaxft in it")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME[=REFERENCE]",
        help="a variable whose value the target fetches: from Secret Manager (tpu-vm), a Kubernetes secret as "
        "SECRET:KEY (gke), or your environment (skypilot); may be repeated",
    )
    parser.add_argument(
        "--env-file", metavar="FILE", help="variables, on the machine (slurm, gpu-host) or in the storage (xpk)"
    )
    parser.add_argument("--spot", action="store_true", help="machines that cost less and may be taken away")
    parser.add_argument("--service-account", metavar="NAME", help="as which the machines act")
    parser.add_argument("--restarts", type=int, help="at most (default: 100)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the target: zone, project (tpu-vm), namespace, context (gke), cluster, project, zone, priority, "
        "reservation, docker-image-pull-secret, storage, attach (xpk), any of sbatch's (slurm), infra (skypilot), push "
        "(docker); may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: print one JSON object")


def launch(options: argparse.Namespace) -> None:
    """`jaxft launch`"""
    from jaxft.workflows.launch import LaunchOptions, carry_out, launch_text, plan_launch

    chosen = LaunchOptions(
        topology=options.topology,
        slices=options.slices,
        storage=options.storage,
        output=options.output,
        install=options.install,
        image=options.image,
        secrets=tuple(options.secret),
        env_file=options.env_file,
        spot=options.spot,
        service_account=options.service_account,
        restarts=options.restarts,
        options=tuple(options.option),
    )
    directory, planned = plan_launch(options.target, options.recipe, options.overrides, chosen)
    if not options.dry_run:
        print(f"{directory}: {', '.join(planned.files)}", file=sys.stderr)
        for line in planned.advice:
            print(line, file=sys.stderr)
        carry_out(options.target, directory, planned)
    elif options.json:
        files = {str(directory / name): text for name, text in planned.files.items()}
        print(json.dumps({"files": files, "commands": planned.commands}, indent=2, ensure_ascii=False))
    else:
        print(launch_text(directory, planned))
