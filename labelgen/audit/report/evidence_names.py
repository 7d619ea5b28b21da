"""Names of evidence on the page and in galleries: a few plain words, and a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

#: Columns of frames that mean another thing in groups of duplicates.
_OF_GROUPS: Mapping[str, str] = {"images": "group_images", "kind": "group_kind"}

#: Column -> its name, and what its values say.
EVIDENCE: Mapping[str, tuple[str, str]] = {
    # pairs: false negatives and noisy pairs
    "caption_set_max": (
        "best match with the image's captions",
        "Largest similarity of the caption with an annotated caption of the image, itself left out.",
    ),
    "caption_set_top2": (
        "two best matches with the image's captions",
        "Mean of its two largest similarities with the annotated captions of the image, itself left out.",
    ),
    "caption_set_mean": (
        "mean match with the image's captions",
        "Mean similarity of the caption with all annotated captions of the image, itself left out.",
    ),
    "sets": (
        "match of the two sets of captions",
        "Similarity of all captions of the image with all captions of the image that the caption was written for.",
    ),
    "images": (
        "similarity of the two images",
        "Similarity of the image with the image that the caption was written for, by the image teacher.",
    ),
    "neighbor_captions": (
        "match with captions of similar images",
        "Similarity of the caption with the mean caption of the images that are most similar to the image.",
    ),
    "hubness": (
        "the image matches many captions",
        "Mean similarity in the image's list of captions. A large value counts against a false negative: such an image "
        "is similar to everything.",
    ),
    "length": (
        "length of the caption",
        "Logarithm of 1 + the number of words. Long captions have more details that can be wrong.",
    ),
    "cross": (
        "similarity of image and caption",
        "Similarity of the image itself with the caption, by a cross-modal teacher such as CLIP.",
    ),
    "cross_elsewhere": (
        "best similarity with another image",
        "Largest similarity of the caption with an image whose captions are similar to it, by the same teacher. "
        "A large value makes the pair suspect.",
    ),
    "i2t_rank": (
        "place in the image's list",
        "Place of the caption among the captions of other images that are most similar to the image; 1 is the nearest.",
    ),
    "t2i_rank": (
        "place in the caption's list",
        "Place of the image among the other images that are most similar to the caption; 1 is the nearest.",
    ),
    "annotated": ("annotated pair", "Whether the data set has this pair."),
    "suspicion": (
        "how wrong it looks, 0 to 1",
        "Share of replaced captions among pairs that look like it, if all errors were captions swapped at random.",
    ),
    "siblings": (
        "match with the other captions",
        "Similarity of the caption with the image's other captions; those that look wrong count less.",
    ),
    "sibling_top2": (
        "two best matches with the other captions",
        "Mean of the two largest similarities of the caption with the image's other captions.",
    ),
    "sibling_mean": (
        "mean match with the other captions",
        "Mean similarity of the caption with the image's other captions.",
    ),
    "best_other_image": (
        "best match with another image",
        "Largest similarity of the caption with the captions of another image. A large value makes the pair suspect.",
    ),
    "exchange": (
        "better exchanged",
        "How much better the caption and a similar caption of another image would fit if they changed places. A large "
        "value makes the pair suspect where the data set has many such captions.",
    ),
    "image_consistency": (
        "similarity with images of similar captions",
        "Similarity of the image with the images of the captions that are most similar to this caption.",
    ),
    # groups and pairs of items
    "group_kind": ("exact or near", "exact: another member of the group is equal; near: the others are nearly equal."),
    "size": ("members of the group", "Number of items that are equal or nearly equal to each other."),
    "group_images": ("images of the group", "Number of different images that the group holds."),
    "similarity": ("similarity", "Largest similarity with another member of the group; 1 for equal items."),
    "exact": ("exactly equal", "Whether the two items are equal, not only similar."),
    "other_split": ("split of the other item", "Part of the data set that the other item belongs to."),
    # single items
    "split": ("split", "Part of the data set that the item belongs to."),
    "listed": ("lists that hold it", "Number of neighbor lists that this item is in."),
    "expected": ("mean of its split", "Mean number of lists that an item of the same split is in."),
    "nearest": ("similarity of the nearest", "Similarity of the most similar item of the same kind."),
    "overlap": ("overlap of the two lists", "Share of the first neighbors that both teachers list."),
    "correlation": ("agreement of the order", "Rank correlation of the two lists, from -1 to 1."),
}


def evidence_name(column: str) -> tuple[str, str]:
    """Return the name and the sentence of a piece of evidence; other columns keep their name and have no sentence."""
    return EVIDENCE.get(column, (column.replace("_", " "), ""))


def evidence_key(column: str, *, grouped: bool) -> str:
    """Return the key of a column in `EVIDENCE`, of a frame of groups or of another one."""
    return _OF_GROUPS.get(column, column) if grouped else column
