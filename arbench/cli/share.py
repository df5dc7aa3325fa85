"""`arbench push` and `arbench pull`: a run folder to and from a data set of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

PUSH_EXAMPLES = """Examples:

  arbench push runs/mar-digits-0123456789 me/my-runs --dry-run

  arbench push runs/mar-digits-0123456789 me/my-runs --public
"""
PULL_EXAMPLES = """Examples:

  arbench pull someone/their-runs --dry-run

  arbench pull someone/their-runs mar-digits-0123456789 --out theirs
"""

Run = Annotated[Path, typer.Argument(help="A finished run folder.", show_default=False)]
Repo = Annotated[str, typer.Argument(help="OWNER/NAME of a data set on the Hub.", show_default=False)]
Name = Annotated[Optional[str], typer.Argument(help="Which run; the only one where there is one.", show_default=False)]
Images = Annotated[bool, typer.Option("--images", help="The images too, not the record alone.")]
Public = Annotated[bool, typer.Option("--public", help="A new data set is open to everybody, not private.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List files and bytes; send or fetch nothing.")]
Target = Annotated[Path, typer.Option("--out", "-o", help="Where the run folder goes.")]


def register(app: typer.Typer) -> None:
    """Add `push` and `pull` to the app."""
    app.command("push", epilog=PUSH_EXAMPLES)(push)
    app.command("pull", epilog=PULL_EXAMPLES)(pull)


def push(run: Run, repo: Repo, images: Images = False, public: Public = False, dry_run: DryRun = False) -> None:
    """Send a run's record to the Hugging Face Hub, under your own login there."""
    from arbench.runs import hub

    print(*hub.listing(hub.files_of_run(run, images=images)), sep="\n")
    hub.check_repo(repo)
    if not dry_run:
        print(hub.push(run, repo, images=images, public=public))


def pull(
    repo: Repo, run: Name = None, out: Target = Path("runs"), images: Images = False, dry_run: DryRun = False
) -> None:
    """Fetch a run's record from the Hugging Face Hub, checked as a stranger's."""
    from arbench.runs import hub

    commit, runs = hub.list_runs(repo, images=images)
    if dry_run and run is None:
        for name, files in runs.items():
            print(name, *hub.listing(files), sep="\n")
        return
    chosen = hub.choose_run(repo, runs, run)
    print(*hub.listing(runs[chosen]), sep="\n")
    if not dry_run:
        print(hub.pull(repo, chosen, runs[chosen], out, commit=commit))
