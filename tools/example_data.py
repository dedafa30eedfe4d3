"""Put the pictures and the weights of `fastai_lrx.demo.example_learner` where torchvision and the hub's client keep them.

For machines that reach neither of their hosts: `benchmarks/real_data.py` says which packages have them."""
import gzip, sys
from pathlib import Path

from fastai.data.external import fastai_path
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import save_file
import torch

sys.path.insert(0, str(Path(__file__).parent.parent/'benchmarks'))
from real_data import imagenet, missing_data, pictures_dir

def main():
    if missing := missing_data(): raise SystemExit(f'tools/example_data.py: missing: {missing}')
    raw = fastai_path('data')/'FashionMNIST'/'raw'
    raw.mkdir(parents=True, exist_ok=True)
    for p in pictures_dir.glob('*.gz'): (raw/p.stem).write_bytes(gzip.decompress(p.read_bytes()))
    repo = Path(HF_HUB_CACHE)/'models--timm--tf_efficientnet_lite0.in1k'
    (repo/'refs').mkdir(parents=True, exist_ok=True)
    (repo/'refs'/'main').write_text('0'*40)
    (folder := repo/'snapshots'/('0'*40)).mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k,v in torch.load(imagenet(0)).items()}, folder/'model.safetensors')

if __name__=='__main__': main()
