"""Runs transformers' Qwen3.5 on this folder's batch and writes dump.h5; judge: meshparity compare --golden G dump.h5
`python check.py` or `torchrun --nproc-per-node 2 check.py --fsdp`, both with `--dtype float32` for casts as released.
To judge your own trainer put it in the place of the lines marked <- and keep the names under `dump`."""
import argparse, pathlib, h5py, safetensors.torch, torch, torch.distributed.fsdp, torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from images import document_images  # images.py: pixels and grids of a document
parser, here, rank, world = argparse.ArgumentParser(), pathlib.Path(__file__).parent, 0, 1
parser.add_argument("--fsdp", action="store_true"), parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
args = parser.parse_args()
args.dtype == "float64" and __import__("lift").lift()  # lift.py: the library's casts to float32 become casts to float64
dtype, batch = getattr(torch, args.dtype), safetensors.torch.load_file(here / "batch.safetensors")
ids, labels, offsets = batch["token_ids"], batch["labels"], batch["document_offsets"].tolist()
documents, valid = [slice(*ends) for ends in zip(offsets, offsets[1:])], (labels != -100).sum()
kind = AutoModelForImageTextToText if "vision_config" in (here / "config.json").read_text() else AutoModelForCausalLM
model = kind.from_pretrained(here, dtype=dtype, attn_implementation="eager", experts_implementation="eager")
text, tower = getattr(model.model, "language_model", model.model), getattr(model.model, "visual", torch.nn.Module())
if args.fsdp:
    _, rank, world = dist.init_process_group("gloo"), dist.get_rank(), dist.get_world_size()
    for part in (*text.layers, model):  # sum, then divide: Gloo has no mean
        dist.fsdp.fully_shard(part, mesh=dist.init_device_mesh("cpu", (world,))).set_force_sum_reduction_for_comms(True)
logits, logprobs = torch.zeros(len(ids), text.config.vocab_size, dtype=dtype), torch.zeros(len(ids), dtype=dtype)
for turn in range(0, len(documents), world):  # each rank one document; a rank without one takes part with weight 0
    d, mine = documents[(turn + rank) % len(documents)], turn + rank < len(documents)
    at = torch.cat([torch.arange(len(ids[d]))[None], batch["position_ids"][:, d]])[:, None] if "position_ids" in batch else None
    pictures = document_images(model.config, batch, d.start, d.stop)
    out = model(input_ids=ids[None, d], position_ids=at, use_cache=False, **pictures).logits[0]  # <- every document alone
    ce = torch.nn.functional.cross_entropy(out, labels[d], reduction="none")  # <- labels[t] is token t+1, or -100
    unseen = sum(0 * p.sum() for p in tower.parameters())  # FSDP: ranks without images have gradients of the tower too
    (mine * world * ce.sum() / max(valid, 1) + unseen).backward()  # <- valid labels of all ranks; FSDP divides by world
    if mine: logits[d], logprobs[d] = out.detach(), -ce.detach()
[dist.all_reduce(x) for x in (logits, logprobs) if args.fsdp]  # every token was computed by one rank
grads = {n.replace("model.language_model.", "model.", 1): p.grad.full_tensor() if args.fsdp else p.grad
         for n, p in model.named_parameters() if p.grad is not None}
dump = {f"inputs/{n}": x for n, x in batch.items()} | {f"expected/grads/{n}": g for n, g in grads.items()}
dump |= {"expected/logits": logits, "expected/logprobs": logprobs, "expected/loss/token_mean": -logprobs.sum() / max(valid, 1),
         "expected/denominators/token_mean": valid.to(dtype), "expected/grad_norm": torch.nn.utils.get_total_norm(grads.values())}
if rank == 0:
    with h5py.File("dump.h5", "w") as file:
        [file.create_dataset(name, data=value.numpy()) for name, value in dump.items()]
args.fsdp and dist.destroy_process_group()  # joins Gloo's threads: one still alive when the interpreter ends aborts it
