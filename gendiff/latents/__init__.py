"""States of a codec: fewer numbers than a domain's own, from which it gives them back.

Read `autoencoder` first (the network and its whitening), then `bottlenecks` (what a latent may hold), `losses` (what a
codec is trained for), `codec` (its file) and `latent` (any domain on latents).
To add a bottleneck: subclass `Bottleneck`; a codec of another kind: a network with `encode`, `decode`, `begin` and
`whiten`. The laws: tests/core/test_latents.py.
"""

from gendiff.latents.autoencoder import Autoencoder as Autoencoder
from gendiff.latents.bottlenecks import FSQ as FSQ
from gendiff.latents.bottlenecks import KL as KL
from gendiff.latents.bottlenecks import Bottleneck as Bottleneck
from gendiff.latents.codec import Codec as Codec
from gendiff.latents.codec import Grid as Grid
from gendiff.latents.latent import Latent as Latent
from gendiff.latents.losses import Reconstruction as Reconstruction
