"""Tuning numbers of the grounding, in one place, with their units and where each was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroundingOptions:
    """Numbers that hold for every model; those that belong to weights are GroundingSettings.

    The numbers of regions, scores, objects and masks were chosen with the embedded model on 400
    generated scenes of another seed than those of `evaluate` (docs/models/tabletop.md), unless a
    line says otherwise. docs/grounding.md has the ablation of the cuts and of the penalty.

    Regions (regions.py, components.py):
    stock_affinity_slope: log-odds per standard deviation of the frame's cosines, for weights
        without an affinity of their own; their cut is Otsu's threshold of those cosines.
    affinity_cuts: offsets of the cut, in standard deviations of the frame's affinities, at each of
        which regions are found. All regions of the first one stay.
    max_regions: most regions at one cut.
    claim_share: share of a patch, in [0, 1], above which its region claims it. Below one half: a
        patch that a region half covers, at its edge, must not lead another region.
    duplicate_iou: IoU, in patches, at which a later region repeats an earlier one.
    component_bridge: side, in patches, of the square that joins components. 2 bridges a gap of one
        patch: something narrow stands in front of one object.
    min_component_patches: smaller components are noise.

    Scores (standing.py, grounder.py), in units of standing, which is what is left of a logit once
    its scale, its bias and its language are taken out:
    column_share: share, in [0, 1], of a region's own level in what a phrase is compared with; the
        rest is the frame's.
    contrast: standing that a phrase loses for each unit by which the same phrase in another color
        fits the region better.
    extra_cut_penalty: standing taken from regions found only at the extra cuts: more cuts give a
        phrase more chances to match by luck.
    outside_level: the same for a picture or a phrase that is outside of a model's training: above
        what phrases that are not there reach by luck.
    stock_level, stock_slope: standing that has a probability of one half before a calibration, and
        log-odds for each unit above it.

    Objects (objects.py):
    size_bonus: standing by which a region outranks one of half its patches.
    same_pixel_share: two masks are one object if they share more than this of the smaller one.
    same_patch_share: the same of two regions' patches. Such masks would share half of their
        pixels too, so the second one need not be drawn.
    max_part_ratio: a mask is part of a better one that it touches if it has less than this share
        of its area.

    Windows (windows.py; no measurement is recorded of the overlap and the edge):
    window_overlap: share of a window's side that it has in common with the next one.
    window_penalty: standing taken from what a window shows: four more views give a phrase more
        chances to match by luck (docs/grounding.md).
    window_edge: distance from an inner edge of a window, as a share of its side, up to which a
        thing counts as cut.

    Masks (mask_refinement.py):
    refinement_side: longer side of the image that masks are refined on, pixels. Masks gain nothing
        from more.
    color_levels: histogram bins of each channel.
    color_blur, evidence_blur: sigma, in pixels of that image, of the blur before colors are
        counted, and of the blur of what each pixel's color says.
    min_share: a pixel's prior share stays between this and one minus this.
    min_peak: a lower peak of the prior is raised to this: small things fill no patch.
    candidate_share: prior share from which on a pixel may belong to the object.
    prior_count: pixels that each histogram bin starts with.

    Relations (relations.py; no measurement is recorded):
    relation_margin: how far past its landmark an object has to lie, as a share of the image's
        shorter side.

    Depth (depth.py; no measurement is recorded):
    depth_edge: width, in pixels, of the mask's edge that is left out, where depth is as likely the
        table's.
    min_depth_pixels, min_depth_share: fewest pixels with depth, as a number and as a share of the
        mask, that give a position.
    max_deviations: pixels further from the median depth belong to something else, in standard
        deviations estimated from the median absolute deviation.
    min_depth_spread: the least such distance, meters.
    min_plane_points, min_plane_share: fewest points around a thing, as a number and as a share,
        that have to lie on one plane for it to be what the thing rests on. plane_tolerance: how
        from it, meters. min_height: a thing lower than that, meters, has no sides to complete. On
        268 rendered things the middle is 0.4 cm off in the median, the surface's center 1.95 cm.
    solid_percentiles: percentiles that bound a thing on its plane: nearer its true edges, as what
        shines through is already left out.
    plane_ring: width, as a share of the box's longer side, of the surroundings that are looked at.
    extent_percentiles: percentiles that bound an object: a few flying pixels must not stretch it.
    """

    stock_affinity_slope: float = 3.0
    affinity_cuts: tuple[float, ...] = (0.0, 1 / 6, -1 / 6)
    max_regions: int = 32
    claim_share: float = 0.4
    duplicate_iou: float = 0.8
    component_bridge: int = 2
    min_component_patches: int = 2

    column_share: float = 0.5
    contrast: float = 1.0
    extra_cut_penalty: float = 0.3
    stock_level: float = 2.2
    stock_slope: float = 3.0
    outside_level: float = 3.6

    size_bonus: float = 0.15
    same_patch_share: float = 0.8
    same_pixel_share: float = 0.5
    max_part_ratio: float = 0.5

    window_overlap: float = 0.25
    window_edge: float = 0.01
    window_penalty: float = 0.5

    refinement_side: int = 320
    color_levels: int = 12
    color_blur: float = 0.8
    evidence_blur: float = 0.6
    min_share: float = 0.005
    min_peak: float = 0.6
    candidate_share: float = 0.15
    prior_count: float = 0.5

    relation_margin: float = 0.01

    depth_edge: int = 2
    min_depth_pixels: int = 12
    min_depth_share: float = 0.05
    max_deviations: float = 3.0
    min_depth_spread: float = 0.01
    min_plane_points: int = 40
    min_plane_share: float = 0.3
    plane_tolerance: float = 0.01
    plane_ring: float = 0.25
    solid_percentiles: tuple[float, float] = (0.5, 99.5)
    min_height: float = 0.004
    extent_percentiles: tuple[float, float] = (2.0, 98.0)


DEFAULT_OPTIONS = GroundingOptions()
