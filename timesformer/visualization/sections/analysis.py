"""The sections of a report that tools/analyze.py adds."""

from typing import Any

from timesformer.analysis.analysis_folder import find_analysis
from timesformer.runtime.subcommands import suggest_command
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.sections.attention import attention_section
from timesformer.visualization.sections.embedding import embedding_section
from timesformer.visualization.sections.properties import properties_section
from timesformer.visualization.sections.revealed import revealed_section


def analysis_sections(run: FinishedRun) -> dict[str, Any]:
    """Values of `templates/_analysis.html`; `command` adds the missing sections."""
    folder = find_analysis(run.folder, run.results)
    tested = run.results and run.predictions is not None
    return {
        "command": suggest_command("analyze", str(run.folder)) if tested and not folder else "",
        "embedding": folder and embedding_section(run, folder),
        "properties": folder and properties_section(run, folder),
        "revealed": folder and revealed_section(run, folder),
        "attention": folder and attention_section(run, folder),
    }
