"""From a task's report to the answer's shape."""

from __future__ import annotations

import math

from service.api.schemas import (
    AudioInfo,
    ChannelQuality,
    ChannelScene,
    CurveInfo,
    FindingInfo,
    FramesInfo,
    LabelInfo,
    Quality,
    ScaleInfo,
    Scene,
    SegmentInfo,
    StretchInfo,
)
from service.tasks.hear import Report
from service.tasks.quality import QualityAnswer
from service.tasks.scene import SceneAnswer


def audio_info(report: Report, sha256: str) -> AudioInfo:
    facts, levels = report.facts, report.levels
    return AudioInfo(
        duration_s=facts.duration_s or 0.0,
        sample_rate=facts.sample_rate,
        channels=facts.channels,
        format=facts.format,
        subtype=facts.subtype,
        peak_dbfs=levels.peak_dbfs if math.isfinite(levels.peak_dbfs) else None,
        rms_dbfs=levels.rms_dbfs if math.isfinite(levels.rms_dbfs) else None,
        sha256=sha256,
    )


def quality(report: Report, audio: AudioInfo, request_id: str, *, curve: bool) -> Quality:
    """The worst channel stands for the recording; with one channel that is simply the answer."""
    answers = report.quality
    lower_is_worse = answers[0].scale.better == "higher"
    worst = min(answers, key=lambda answer: answer.score if lower_is_worse else -answer.score)
    return Quality(
        model=report.quality_model,
        audio=audio,
        findings=[
            FindingInfo(kind=found.kind, onset_s=found.onset_s, offset_s=found.offset_s, value=found.value)
            for found in report.levels.findings
        ],
        channels=[ChannelQuality(**_quality(answer, curve, [])) for answer in answers] if len(answers) > 1 else None,
        request_id=request_id,
        **_quality(worst, curve, report.warnings),
    )


def scene(report: Report, audio: AudioInfo, request_id: str, *, segments: bool, frames: bool) -> Scene:
    first = report.scene[0]
    rest = report.scene if len(report.scene) > 1 else []
    return Scene(
        model=report.scene_model,
        audio=audio,
        channels=[ChannelScene(**_scene(answer, segments, frames, [])) for answer in rest] or None,
        request_id=request_id,
        **_scene(first, segments, frames, report.warnings),
    )


def _quality(answer: QualityAnswer, curve: bool, warnings: list[str]) -> dict[str, object]:
    scale = answer.scale
    return {
        "score": answer.score,
        "scale": ScaleInfo(name=scale.name, min=scale.min, max=scale.max, better=scale.better),
        "scores": answer.scores,
        "valid": answer.valid,
        "curve": CurveInfo(
            start_s=answer.curve.start_s, step_s=answer.curve.step_s, values=answer.curve.values.tolist()
        )
        if curve
        else None,
        "worst": [
            StretchInfo(onset_s=stretch.onset_s, offset_s=stretch.offset_s, score=stretch.score)
            for stretch in answer.worst
        ],
        "warnings": [*warnings, *answer.warnings],
    }


def _scene(answer: SceneAnswer, segments: bool, frames: bool, warnings: list[str]) -> dict[str, object]:
    return {
        "labels": [LabelInfo(label=label.label, probability=label.probability) for label in answer.labels],
        "segments": [
            SegmentInfo(
                label=segment.label,
                onset_s=segment.onset_s,
                offset_s=segment.offset_s,
                probability=segment.probability,
            )
            for segment in answer.segments
        ]
        if segments
        else None,
        "frames": FramesInfo(
            start_s=answer.frame_start_s,
            step_s=answer.frame_step_s,
            labels=list(answer.names),
            values=answer.frames.tolist(),
        )
        if frames
        else None,
        "exclusive": answer.exclusive,
        "warnings": [*warnings, *answer.warnings],
    }
