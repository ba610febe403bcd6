"""What must hold for what a server lists and answers, whichever client asks. All of it on the JSON of the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema

import cases
from cases import Case
from report import Step

Json = Mapping[str, Any]


def check_tools(step: Step, tools: Iterable[Json]) -> set[str]:
    """The tools and the table agree, and every tool tells what the contract says it tells. The tools' names."""
    by_name = {tool["name"]: tool for tool in tools}
    _same(step, "tools", by_name, cases.TOOLS)
    for name, tool in by_name.items():
        step.check(bool(tool.get("description")), f"tool `{name}` has a description", tool)
        for key in ("inputSchema", "outputSchema"):
            _check_schema(step, f"`{key}` of tool `{name}`", tool.get(key))
        _check_annotations(step, name, tool.get("annotations") or {})
    return set(by_name)


def _check_schema(step: Step, what: str, schema: Any) -> None:
    if not step.check(isinstance(schema, dict) and schema.get("type") == "object", f"{what} is of an object", schema):
        return
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        step.fail(f"{what} is a JSON Schema 2020-12: {error.message}", schema)


def _check_annotations(step: Step, name: str, annotations: Json) -> None:
    reads = name in cases.READ_ONLY
    step.check(annotations.get("readOnlyHint") is reads, f"`readOnlyHint` of `{name}` is {reads}", annotations)
    if not reads:
        # Absent means destructive and not idempotent; the contract wants it said.
        for hint in ("destructiveHint", "idempotentHint"):
            step.check(isinstance(annotations.get(hint), bool), f"`{name}` tells its `{hint}`", annotations)


def check_arguments(step: Step, tool: Json, arguments: Json) -> None:
    """What the table calls a tool with is what its schema describes: a model has nothing but the schema."""
    try:
        jsonschema.validate(arguments, tool["inputSchema"], cls=jsonschema.Draft202012Validator)
    except jsonschema.ValidationError as error:
        step.fail(f"`{tool['name']}` describes the arguments it takes: {error.message}", tool["inputSchema"])
    except jsonschema.SchemaError:
        pass  # Reported with the tool.


def check_answer(step: Step, case: Case, arguments: Json, result: Json, run: str, kept: Json) -> Json:
    """An answer that is no error, holds what it should, and says the same as text. Its structured content."""
    call = f"{case.tool}({json.dumps(arguments)})"
    structured = _structured(result)
    if not step.check(not result.get("isError"), f"{call} succeeds", result):
        return {}
    if not step.check(bool(structured), f"{call} has structured content", result):
        return {}
    wrong = cases.wrong_answers(case, structured, run, kept)
    step.check(not wrong, f"{call}: {'; '.join(wrong)}", structured)
    check_text(step, call, result)
    return structured


def check_error(step: Step, case: Case, arguments: Json, result: Json, run: str) -> Json:
    """An answer that tells the model of an error in a way a program can read, too. Its structured content."""
    call = f"{case.tool}({json.dumps(arguments)})"
    structured = _structured(result)
    step.check(result.get("isError") is True, f"{call} is an error", result)
    if not step.check(bool(structured), f"the error of {call} has structured content", result):
        return {}
    wrong = cases.wrong_answers(case, structured, run, {})
    step.check(not wrong, f"{call}: {'; '.join(wrong)}", structured)
    check_text(step, call, result)
    return structured


def check_denial(step: Step, arguments: Json, result: Json, run: str) -> None:
    """A denial says why, what would be allowed, and what decided."""
    structured = check_error(step, cases.DENIED, arguments, result, run)
    for key in ("reason", "detail", "remedy", "decision_id"):
        value = structured.get(key)
        step.check(isinstance(value, str) and bool(value), f"a denial has `{key}`", structured)
    policy = structured.get("policy") or {}
    decided = str(policy.get("component")).startswith("sha256:") and isinstance(policy.get("epoch"), int)
    step.check(decided, "a denial names component and epoch", structured)


def check_text(step: Step, call: str, result: Json) -> None:
    """Clients without structured content read the text: it must be the same JSON."""
    texts = [block.get("text", "") for block in result.get("content") or [] if block.get("type") == "text"]
    step.check(
        any(_json_of(text) == result.get("structuredContent") for text in texts),
        f"{call} gives its structured content as text as well",
        result,
    )


def check_resources(step: Step, resources: Iterable[Json]) -> list[str]:
    """The resources are those of the contract. The URIs listed."""
    by_uri = {resource["uri"]: resource for resource in resources}
    _same(step, "resources", by_uri, cases.RESOURCES)
    for uri, resource in by_uri.items():
        step.check(bool(resource.get("name")) and bool(resource.get("description")), f"{uri} is described", resource)
        step.check(resource.get("mimeType") == "text/markdown", f"{uri} is listed as Markdown", resource)
    return list(by_uri)


def check_contents(step: Step, uri: str, result: Json) -> None:
    """A resource's contents are its own, Markdown, and not empty."""
    contents = result.get("contents") or []
    good = bool(contents) and all(
        part.get("uri") == uri and part.get("mimeType") == "text/markdown" and part.get("text", "").strip()
        for part in contents
    )
    step.check(good, f"{uri} is read as Markdown", result)


def check_prompts(step: Step, prompts: Iterable[Json]) -> list[str]:
    """The prompts are those of the contract, with their arguments. The names listed."""
    by_name = {prompt["name"]: prompt for prompt in prompts}
    _same(step, "prompts", by_name, cases.PROMPTS)
    for name, prompt in by_name.items():
        step.check(bool(prompt.get("description")), f"prompt `{name}` has a description", prompt)
        required = {argument["name"] for argument in prompt.get("arguments") or [] if argument.get("required")}
        step.check(required == set(cases.PROMPTS.get(name, {})), f"prompt `{name}` tells what it needs", prompt)
    return [name for name in by_name if name in cases.PROMPTS]


def check_messages(step: Step, name: str, result: Json) -> None:
    """A prompt has a message, with the arguments in it."""
    messages = result.get("messages") or []
    text = json.dumps(messages, ensure_ascii=False)
    missing = [value for value in cases.PROMPTS[name].values() if value not in text]
    step.check(bool(messages) and not missing, f"prompt `{name}` holds its arguments", result)


def _structured(result: Json) -> Json:
    structured = result.get("structuredContent")
    return structured if isinstance(structured, dict) else {}


def _same(step: Step, what: str, listed: Iterable[str], wanted: Iterable[str]) -> None:
    missing, unknown = sorted(set(wanted) - set(listed)), sorted(set(listed) - set(wanted))
    step.check(not missing, f"{what} that the table calls are listed; missing: {missing}")
    step.check(not unknown, f"{what} that are listed are called; not in the table: {unknown}")


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
