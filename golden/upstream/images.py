"""Which images and videos a document holds, as transformers' Qwen3.5 takes them beside its tokens."""
import torch

KINDS = (("image", "pixel_values", "image_grid_thw"), ("video", "pixel_values_videos", "video_grid_thw"))


def offsets(sizes):
    """[n] -> [n+1], from 0."""
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0))


def document_images(config, batch, begin, end):
    """Keyword arguments of the model for tokens begin to end of a batch {name: tensor or array}: pixels, grids and the kind of
    every token, of the images and videos whose placeholders stand there; {} without any. Raises ValueError where one crosses
    the document's end."""
    found, ids = {}, torch.as_tensor(batch["token_ids"])
    kinds = torch.zeros(1, end - begin, dtype=torch.int32)
    for number, (kind, values, grids) in enumerate(KINDS, 1):
        if batch.get(grids) is None:
            continue
        grid_thw = torch.as_tensor(batch[grids])
        is_placeholder = ids == getattr(config, f"{kind}_token_id")
        patches = offsets(grid_thw.prod(1))
        placeholders = patches // config.vision_config.spatial_merge_size**2
        edges = torch.stack([is_placeholder[:begin].sum(), is_placeholder[:end].sum()])
        first, last = torch.searchsorted(placeholders, edges).tolist()
        if placeholders[[first, last]].tolist() != edges.tolist():
            raise ValueError(f"inputs/{grids}: the placeholders of tokens {begin} to {end} are not those of whole {kind}s")
        kinds += number * is_placeholder[None, begin:end]
        if first < last:
            found[values], found[grids] = torch.as_tensor(batch[values])[patches[first]:patches[last]], grid_thw[first:last]
    return {**found, "mm_token_type_ids": kinds} if found else {}
