"""A changed value of every field of a diffusers folder, for tests of what becomes of it."""

AVERAGING = {
    "decay": 0.9999, "min_decay": 0.1, "optimization_step": 7, "update_after_step": 1,
    "use_ema_warmup": True, "inv_gamma": 2.0, "power": 0.75,
}  # fmt: skip
# A changed value of each field of the files as diffusers 0.42 and transformers 5 write them.
CHANGES = {
    "unet": AVERAGING | {
        "_class_name": "UNet3DConditionModel", "_diffusers_version": "9.9", "_name_or_path": "x",
        "act_fn": "gelu", "addition_embed_type": "image", "addition_embed_type_num_heads": 1,
        "addition_time_embed_dim": 4, "attention_head_dim": 4, "attention_type": "gated",
        "block_out_channels": [64, 64], "center_input_sample": True,
        "class_embed_type": "timestep", "class_embeddings_concat": True, "conv_in_kernel": 1,
        "conv_out_kernel": 1, "cross_attention_dim": 48, "cross_attention_norm": "layer_norm",
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 0, "dropout": 0.1, "dual_cross_attention": True,
        "encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj", "flip_sin_to_cos": False,
        "freq_shift": 1, "in_channels": 5, "layers_per_block": 2,
        "mid_block_only_cross_attention": True, "mid_block_scale_factor": 2,
        "mid_block_type": None, "norm_eps": 1e-3, "norm_num_groups": 4,
        "num_attention_heads": 2, "num_class_embeds": 3, "only_cross_attention": True,
        "out_channels": 8, "projection_class_embeddings_input_dim": 100,
        "resnet_out_scale_factor": 2.0, "resnet_skip_time_act": True,
        "resnet_time_scale_shift": "scale_shift", "reverse_transformer_layers_per_block": [3, 3],
        "sample_size": 32, "time_cond_proj_dim": 16, "time_embedding_act_fn": "silu",
        "time_embedding_dim": 64, "time_embedding_type": "fourier", "timestep_post_act": "silu",
        "transformer_layers_per_block": 3, "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        "upcast_attention": True, "use_linear_projection": True,
    },
    "vae": AVERAGING | {
        "_class_name": "AutoencoderTiny", "_diffusers_version": "9.9", "_name_or_path": "x",
        "act_fn": "relu", "block_out_channels": [16, 16], "force_upcast": False,
        "down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"], "in_channels": 1,
        "latent_channels": 8, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4,
        "layers_per_block": 2, "mid_block_add_attention": False, "norm_num_groups": 4,
        "out_channels": 1, "sample_size": 8, "scaling_factor": 0.3, "shift_factor": 0.1,
        "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
        "use_post_quant_conv": False, "use_quant_conv": False,
    },
    "text_encoder": {
        "_name_or_path": "x", "attention_dropout": 0.1, "bos_token_id": 5, "dropout": 0.1,
        "dtype": "float16", "hidden_act": "gelu_new", "hidden_size": 64,
        "initializer_factor": 2.0, "initializer_range": 0.1, "intermediate_size": 128,
        "layer_norm_eps": 1e-3, "max_position_embeddings": 60, "model_type": "bert",
        "num_attention_heads": 2, "num_hidden_layers": 3, "pad_token_id": 9,
        "torch_dtype": "float16", "transformers_version": "4.1", "vocab_size": 100,
    },
    "model_index": {
        "_class_name": "StableDiffusionUpscalePipeline", "_diffusers_version": "9.9",
        "_name_or_path": "x", "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "HeunDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"], "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
    },
}  # fmt: skip
SD_CHANGES = {
    "model_index": {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    }
}
XL_CHANGES = {
    "unet": {"use_linear_projection": False},
    "model_index": {
        "force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True,
        "add_watermarker": True, "text_encoder_2": [None, None],
        "tokenizer_2": ["transformers", "T5Tokenizer"],
    },
    "text_encoder_2": CHANGES["text_encoder"] | {"projection_dim": 48, "eos_token_id": 7},
}  # fmt: skip
SCHEDULER_CHANGES = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500,
    "beta_start": 0.001, "beta_end": 0.03, "beta_schedule": "squaredcos_cap_v2",
    "trained_betas": [0.01] * 1000, "prediction_type": "sample", "timestep_spacing": "trailing",
    "steps_offset": 3, "set_alpha_to_one": True, "rescale_betas_zero_snr": True,
    "clip_sample": True, "thresholding": True, "use_karras_sigmas": True,
    "use_exponential_sigmas": True, "use_beta_sigmas": True, "skip_prk_steps": False,
    "variance_type": "fixed_large", "interpolation_type": "log_linear", "sigma_min": 0.1,
    "sigma_max": 9.0, "timestep_type": "continuous", "final_sigmas_type": "sigma_min",
    "solver_order": 3, "solver_type": "heun", "lower_order_final": False,
    "use_flow_sigmas": True, "use_dynamic_shifting": True, "algorithm_type": "sde-dpmsolver++",
    "euler_at_final": True, "use_lu_lambdas": True, "lambda_min_clipped": -5.1,
    "noise_sampler_seed": 3, "predict_x0": False, "disable_corrector": [0, 1],
    "solver_p": {"a": 1}, "shift_terminal": 0.1, "original_inference_steps": 25,
    "timestep_scaling": 5.0,
}  # fmt: skip
