"""States of a codec: fewer numbers than a domain's own, from which it gives them back.

Read `whitening` first (what every codec's network does), then `autoencoder` (ours), `bottlenecks` (what a latent may
hold), `losses` and `adversarial` (what a codec is trained for), `codec` (its file), `pretrained` (others', from a
folder) and `latent` (any domain on latents). To add a bottleneck: subclass `Bottleneck`; a codec of another kind:
`AnyCodec` with a network that is `Whitened`. The laws: tests/core/test_latents.py.
"""

from gendiff.latents.adversarial import Adversarial as Adversarial
from gendiff.latents.autoencoder import Autoencoder as Autoencoder
from gendiff.latents.bottlenecks import FSQ as FSQ
from gendiff.latents.bottlenecks import KL as KL
from gendiff.latents.bottlenecks import Bottleneck as Bottleneck
from gendiff.latents.codec import AnyCodec as AnyCodec
from gendiff.latents.codec import Codec as Codec
from gendiff.latents.codec import Grid as Grid
from gendiff.latents.latent import Latent as Latent
from gendiff.latents.losses import Reconstruction as Reconstruction
from gendiff.latents.pretrained import PretrainedCodec as PretrainedCodec
from gendiff.latents.pretrained import open_codec as open_codec
from gendiff.latents.whitening import Whitened as Whitened
