"""Frozen descriptions of the networks, the noise schedule and whole checkpoints.

A config says everything that a checkpoint's shapes and numbers depend on, and nothing about
pictures' sizes, which are not architecture. Presets are deltas of one another. Sources:
Latent Diffusion (arXiv 2112.10752), SDXL (arXiv 2307.01952) and the configs published with
the checkpoints.
"""

from dataclasses import dataclass, replace

# What fields of `ScheduleConfig` may be, and how a model may treat memory.
BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")
SIGMA_SPACINGS = ("karras", "exponential")
FINAL_SIGMAS = ("zero", "sigma_min")
SOLVER_TYPES = (None, "midpoint", "heun", "bh1", "bh2")
FIXED_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")
MEMORY = ("high", "medium", "low")


@dataclass(frozen=True)
class TextEncoderConfig:
    """A CLIP text transformer (arXiv 2103.00020).

    Attributes:
        activation: `"quick_gelu"` (OpenAI's CLIP) or `"gelu"` (exact, OpenCLIP).
        projection_dim: width of the pooled, projected output; None builds no such output.
        output_layer: which hidden states leave as context: -1 is the last layer after the final
            LayerNorm, -2 the penultimate one without it (SDXL).
        pad_token_id: what prompts are padded with where no tokenizer file says otherwise.
        end_token_id: the token whose position is pooled; None takes the largest id in the row.
    """

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    projection_dim: int | None = None
    output_layer: int = -1
    pad_token_id: int = 49407
    end_token_id: int | None = None


@dataclass(frozen=True)
class AutoencoderConfig:
    """The variational autoencoder between pictures in [-1, 1] and scaled latents.

    Attributes:
        channels: of each resolution, from the picture inwards; each further one halves the size.
        scaling_factor: latents are `(sample - shift_factor) * scaling_factor`.
        quant_conv, post_quant_conv: whether the 1x1 convolutions around the latents exist.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_groups: int = 32
    epsilon: float = 1e-6
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    quant_conv: bool = True
    post_quant_conv: bool = True
    mid_attention: bool = True

    @property
    def factor(self):
        """Pixels of the picture a latent is wide: 2 to the number of halvings."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class DiffusionModelConfig:
    """The UNet F(c_in x, t, context) that predicts noise or velocity.

    Attributes:
        channels: of each level, from the outer one inwards.
        layers_per_block: residual blocks of each level on the way down; one more on the way up.
        depth: transformer blocks after each residual block of a level, 0 for none, down.
        up_depth: the same on the way up, innermost level first.
        mid_depth: transformer blocks in the middle; None leaves the whole middle out.
        heads: attention heads of each level (diffusers calls this `attention_head_dim`).
        linear_projection: spatial transformers project by Dense instead of 1x1 convolutions.
        transformer_epsilon: of the GroupNorm that opens a spatial transformer.
        time_cond_dim: width of a guidance embedding added to the timestep's, or None.
        size_embed_dim: width of the sinusoidal embedding of each SDXL size number, or None.
        added_embed_dim: width of pooled text plus six size embeddings, or None.
        controlnet_residuals: whether residuals for each skip and the middle are inputs.
    """

    in_channels: int = 4
    out_channels: int = 4
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: tuple[int, ...] = (2, 2, 2, 2)
    depth: tuple[int, ...] = (1, 1, 1, 0)
    up_depth: tuple[int, ...] = (0, 1, 1, 1)
    mid_depth: int | None = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    context_dim: int = 768
    linear_projection: bool = False
    norm_groups: int = 32
    epsilon: float = 1e-5
    transformer_epsilon: float = 1e-6
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    time_cond_dim: int | None = None
    size_embed_dim: int | None = None
    added_embed_dim: int | None = None
    controlnet_residuals: bool = False


@dataclass(frozen=True)
class ScheduleConfig:
    """The training noise schedule and the checkpoint's own way of sampling.

    Attributes:
        beta_schedule: `"scaled_linear"`, `"linear"` or `"squaredcos_cap_v2"`.
        trained_betas: the betas themselves, in place of a rule.
        prediction_type: what F predicts: `"epsilon"`, `"v_prediction"` or `"sample"`.
        zero_terminal_snr: rescale betas so that the last step is pure noise (arXiv 2305.08891).
        sampler: the default where a call names none.
        spacing: of timesteps, `"leading"`, `"linspace"` or `"trailing"`; None is the sampler's own.
        sigma_spacing: `"karras"` or `"exponential"` respaces the noise levels that `spacing`
            found, for samplers that step between noise levels; None leaves them.
        sigma_min, sigma_max: the ends of `sigma_spacing`; None takes those that were found.
        steps_offset: added to the timesteps of `"leading"` spacing.
        set_alpha_to_one: whether DDIM and PLMS end at a clean picture or at the first alpha.
        final_sigma: where samplers that step between noise levels end: `"zero"` or `"sigma_min"`.
        solver_order: of unipc, 1 to 3.
        solver_type: `"midpoint"` or `"heun"` (dpmpp_*), `"bh1"` or `"bh2"` (unipc); None, or the
            other family's, is `"midpoint"` and `"bh2"`.
        lower_order_final: dpmpp_* and unipc lower their order in the last steps.
        euler_at_final: dpmpp_* take the last step at first order.
        disable_corrector: steps after which unipc leaves its corrector out.
        variance_type: of ddpm, `"fixed_small"`, `"fixed_small_log"` (the same) or `"fixed_large"`.
        original_inference_steps: the grid on which lcm and tcd were distilled.
        timestep_scaling: of lcm's boundary condition.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    zero_terminal_snr: bool = False
    sampler: str = "plms"
    spacing: str | None = None
    sigma_spacing: str | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    final_sigma: str = "zero"
    solver_order: int = 2
    solver_type: str | None = None
    lower_order_final: bool = True
    euler_at_final: bool = False
    disable_corrector: tuple[int, ...] = ()
    variance_type: str = "fixed_small"
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0


@dataclass(frozen=True)
class StableDiffusionConfig:
    """A whole checkpoint: its networks, its schedule and how it wants to be called.

    Attributes:
        family: a name for reports, such as `"sd1"`.
        image_size: (height, width) in pixels where a call gives none.
        zero_empty_negative: without a negative prompt, context and pooled vector are zeros (SDXL).
        num_steps, guidance_scale: sampling steps and guidance where a call gives none.
    """

    family: str
    text_encoders: tuple[TextEncoderConfig, ...]
    autoencoder: AutoencoderConfig
    diffusion_model: DiffusionModelConfig
    schedule: ScheduleConfig
    image_size: tuple[int, int] = (512, 512)
    zero_empty_negative: bool = False
    num_steps: int = 50
    guidance_scale: float = 7.5

    @property
    def text_suffixes(self):
        """What ends the names of each text encoder and its tokenizer: "" and, in SDXL, "_2"."""
        return ("", "_2")[: len(self.text_encoders)]

    @property
    def paints(self):
        """Whether the network takes more channels than latents have: it was made to inpaint."""
        return self.diffusion_model.in_channels == 2 * self.autoencoder.latent_channels + 1


CLIP_L = TextEncoderConfig()
OPENCLIP_H = TextEncoderConfig(
    width=1024, depth=23, heads=16, mlp_width=4096, activation="gelu", pad_token_id=0
)
OPENCLIP_BIGG = replace(
    OPENCLIP_H,
    width=1280, depth=32, heads=20, mlp_width=5120, projection_dim=1280, output_layer=-2,
)  # fmt: skip

SD1 = StableDiffusionConfig(
    "sd1", (CLIP_L,), AutoencoderConfig(), DiffusionModelConfig(), ScheduleConfig()
)
SD1_INPAINT = replace(
    SD1, family="sd1-inpaint", diffusion_model=replace(SD1.diffusion_model, in_channels=9)
)
SD2_BASE = replace(
    SD1,
    family="sd2-base",
    text_encoders=(OPENCLIP_H,),
    diffusion_model=replace(
        SD1.diffusion_model, heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True
    ),
)
SD2 = replace(
    SD2_BASE,
    family="sd2",
    schedule=replace(SD1.schedule, prediction_type="v_prediction", sampler="ddim"),
    image_size=(768, 768),
)
SDXL = StableDiffusionConfig(
    "sdxl",
    (replace(CLIP_L, output_layer=-2), OPENCLIP_BIGG),
    replace(SD1.autoencoder, scaling_factor=0.13025),
    DiffusionModelConfig(
        channels=(320, 640, 1280),
        layers_per_block=(2, 2, 2),
        depth=(0, 2, 10),
        up_depth=(10, 2, 0),
        mid_depth=10,
        heads=(5, 10, 20),
        context_dim=2048,
        linear_projection=True,
        size_embed_dim=256,
        added_embed_dim=1280 + 6 * 256,
    ),
    replace(SD1.schedule, sampler="euler", spacing="leading"),
    image_size=(1024, 1024),
    zero_empty_negative=True,
    guidance_scale=5.0,
)
FAMILIES = {config.family: config for config in (SD1, SD1_INPAINT, SD2_BASE, SD2, SDXL)}


def _shrink(config):
    """The same family, with every structural feature and hardly any weights, for tests."""
    text_encoders = tuple(
        replace(
            text, vocab_size=49408, width=32, depth=2, heads=4, mlp_width=64,
            projection_dim=text.projection_dim and 32,
        )
        for text in config.text_encoders
    )  # fmt: skip
    unet = config.diffusion_model
    levels = 2
    attends = [bool(depth) for depth in unet.depth]
    depth = (0, 2) if not attends[0] else (1, 0)
    context = 32 * len(text_encoders)
    return replace(
        config,
        text_encoders=text_encoders,
        autoencoder=replace(
            config.autoencoder, channels=(16, 32), layers_per_block=1, norm_groups=8
        ),
        diffusion_model=replace(
            unet, channels=(32, 64), layers_per_block=(1,) * levels, depth=depth,
            up_depth=depth[::-1], mid_depth=max(depth), heads=(2, 4), context_dim=context,
            norm_groups=8, size_embed_dim=unet.size_embed_dim and 8,
            added_embed_dim=unet.added_embed_dim and 32 + 6 * 8,
        ),
        image_size=(32, 32),
    )  # fmt: skip


TINY = {name: _shrink(config) for name, config in FAMILIES.items()}
