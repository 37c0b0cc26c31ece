"""Validates manifests against the schemas of Kubernetes itself, strictly: a field that is not there is an error."""

import json
import pathlib

import jsonschema
import kubernetes_validate

VERSION = "1.33"  # launch.kubernetes_array needs it
JOBSET = json.loads((pathlib.Path(__file__).parent / "jobset_schema.json").read_text())  # kubernetes_validate has none


def errors(manifest: dict) -> list[str]:
    """What is wrong with a manifest, a Job or a JobSet, as "path: words"."""
    if manifest["kind"] == "Job":
        return _of_job(manifest, "")
    faults = jsonschema.Draft202012Validator(JOBSET).iter_errors(manifest)
    result = [f"{_path(fault)}: {fault.message}" for fault in faults]
    for i, replicated in enumerate(manifest["spec"]["replicatedJobs"]):
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": manifest["metadata"], **replicated["template"]}
        result += _of_job(job, f".spec.replicatedJobs[{i}].template")
    return result


def _of_job(job: dict, where: str) -> list[str]:
    try:
        kubernetes_validate.validate(job, VERSION, strict=True)
    except kubernetes_validate.ValidationError as fault:
        return [f"{where}{_path(fault)}: {fault.message}"]
    return []


def _path(fault: jsonschema.ValidationError) -> str:
    return fault.json_path.removeprefix("$")
