// test_config.c: config.json in both key styles: windows, rotation, what is refused by name. Would catch: another default than transformers', a key that
// changes the result and is passed over.
#include "../test.h"
#include "modelfile.h"

// the windows of a directory's two layers with the extra keys given
static void windows(const sizes *z, const char *keys, int first, int second) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("windows", z, "F32", TL_F32, keys);
  CHECK_OK(tl_model_load(at("windows"), &o, &m));
  if (!m) return;
  CHECK(tl_config_window(&m->cfg, 0) == first && tl_config_window(&m->cfg, 1) == second, "%s: %d and %d", keys,
        tl_config_window(&m->cfg, 0), tl_config_window(&m->cfg, 1));
  tl_model_free(m);
}

// the defaults are those of transformers' configuration classes
static void windows_by_keys(void) {
  windows(&mistral_sizes, "", 4096, 4096);
  windows(&mistral_sizes, "\"sliding_window\":null", 0, 0);
  windows(&mistral_sizes, "\"sliding_window\":8,\"model_type\":\"ministral\",\"architectures\":[\"MinistralForCausalLM\"]", 8, 8);
  windows(&mistral_sizes, "\"sliding_window\":9,\"layer_types\":[\"full_attention\",\"sliding_attention\"]", 0, 9);
  windows(&llama_sizes, "\"sliding_window\":9", 0, 0);
  windows(&llama_sizes, "\"layer_types\":[\"full_attention\",\"full_attention\"]", 0, 0);
  windows(&qwen2_sizes, "\"sliding_window\":9,\"max_window_layers\":0,\"use_sliding_window\":false", 0, 0);
  windows(&qwen2_sizes, "\"sliding_window\":9,\"max_window_layers\":1,\"use_sliding_window\":true", 0, 9);
  windows(&qwen2_sizes, "\"sliding_window\":9,\"use_sliding_window\":true", 0, 0);
  windows(&qwen3_sizes, "\"max_window_layers\":0,\"use_sliding_window\":true", 4096, 4096);
  windows(&qwen3_sizes, "\"sliding_window\":9,\"use_sliding_window\":true,\"layer_types\":[\"sliding_attention\",\"full_attention\"]",
          9, 0);
}

// SmolLM3: which of two layers rotate. Would catch: 1 and 0 the wrong way round, an interval counted from 0, other defaults than transformers'.
static void rotation_by_keys(void) {
  static const struct {
    const char *keys;
    bool first, second;
  } cases[] = {{"\"no_rope_layers\":null", 1, 1}, {"\"no_rope_layer_interval\":2", 1, 0}, {"\"no_rope_layer_interval\":1", 0, 0},
               {"\"no_rope_layers\":[0,1]", 0, 1}, {"\"no_rope_layers\":[1,0,1,1],\"no_rope_layer_interval\":1", 1, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_hf("smollm3", &smollm3_sizes, "F32", TL_F32, cases[i].keys);
    tl_model *m = NULL;
    CHECK_OK(tl_model_load(at("smollm3"), &(tl_model_options){.compute = TL_F32}, &m));
    CHECK(m->cfg.unrotated[0] != cases[i].first && m->cfg.unrotated[1] != cases[i].second, "%s", cases[i].keys);
    tl_model_free(m);
  }
}

// frequencies of a directory's config with the extra keys given
static void frequencies(const char *keys, float *f) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("rope", &llama_sizes, "F32", TL_F32, keys);
  CHECK_OK(tl_model_load(at("rope"), &o, &m));
  for (int i = 0; m && i < 5; i++) f[i] = tl_rope_frequency(&m->cfg, i);
  tl_model_free(m);
}

static void rope_key_styles(void) {
  float a[5], b[5];
  frequencies("\"rope_theta\":5000.0,\"rope_scaling\":null", a);
  frequencies("\"rope_parameters\":{\"rope_theta\":5000.0,\"rope_type\":\"default\"}", b);
  for (int i = 0; i < 5; i++) CHECK(a[i] == b[i] && fabsf(a[i] / powf(5000, -(float)i / 5) - 1) < 1e-6f);
  frequencies("\"rope_theta\":5000.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}", b);
  for (int i = 0; i < 5; i++) CHECK(b[i] == a[i] / 4);
  // original 64, low 1, high 4: wavelengths above 64 are divided by 8, below 16 kept, between: blended
  frequencies("\"rope_theta\":5000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
              "\"high_freq_factor\":4,\"original_max_position_embeddings\":64}",
              b);
  for (int i = 0; i < 5; i++) {
    double wave = 2 * 3.14159265358979 / a[i], s = (64 / wave - 1) / 3;
    double want = wave > 64 ? a[i] / 8 : wave < 16 ? a[i] : (1 - s) * a[i] / 8 + s * a[i];
    CHECK(fabs(b[i] / want - 1) < 1e-5, "pair %d: %g, expected %g", i, b[i], want);  // fp32 against double
  }
}

static void rope_table_grows(void) {
  tl_model *m = NULL;
  tl_model_options o = {.compute = TL_F32};
  write_hf("grow", &llama_sizes, "F32", TL_F32, NULL);
  CHECK_OK(tl_model_load(at("grow"), &o, &m));
  if (!m) return;
  CHECK_OK(tl_model_need_positions(m, 10));
  CHECK_OK(tl_model_need_positions(m, 700));
  float *all = malloc(sizeof(float) * 700 * 10), *have = malloc(sizeof(float) * 700 * 10);
  tl_rope_table(all, &m->cfg, 700);
  CHECK(m->n_rope >= 700);
  if (m->n_rope >= 700) tl_ops()->copy(have, m->rope, sizeof(float) * 700 * 10);
  CHECK(memcmp(all, have, sizeof(float) * 700 * 10) == 0);
  free(all);
  free(have);
  tl_model_free(m);
}

static void refused_by_name(void) {
  static const struct {
    const char *keys, *word;
    tl_status status;
  } cases[] = {{"\"model_type\":\"mamba\"", "unknown architecture mamba", TL_E_UNSUPPORTED},
               {"\"architectures\":[\"LlamaForSequenceClassification\"]", "LlamaForSequenceClassification", TL_E_UNSUPPORTED},
               {"\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}", "rope_type dynamic", TL_E_UNSUPPORTED},
               {"\"rope_scaling\":{\"type\":\"longrope\",\"factor\":4}", "rope_type longrope", TL_E_UNSUPPORTED},
               {"\"rope_scaling\":{\"rope_type\":\"yarn\"}", "factor is missing", TL_E_FORMAT},
               {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":1,\"beta_slow\":2}", "beta_fast", TL_E_FORMAT},
               {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"truncate\":1}", "truncate", TL_E_FORMAT},
               {"\"rope_scaling\":{\"factor\":4}", "rope_scaling has no rope_type", TL_E_FORMAT},
               {"\"rope_scaling\":7", "rope_scaling is not an object", TL_E_FORMAT},
               {"\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", "rope_parameters.full_attention",
                TL_E_UNSUPPORTED},
               {"\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.25}", "partial_rotary_factor",
                TL_E_UNSUPPORTED},
               {"\"layer_types\":[\"full_attention\",\"chunked_attention\"]", "layer_types[1] is chunked_attention",
                TL_E_UNSUPPORTED},
               {"\"layer_types\":[\"full_attention\",\"sliding_attention\"]", "layer_types[1] is sliding_attention",
                TL_E_UNSUPPORTED},
               {"\"layer_types\":[\"full_attention\"]", "layer_types", TL_E_FORMAT},
               {"\"is_causal\":false", "is_causal", TL_E_UNSUPPORTED},
               {"\"model_type\":\"mistral\",\"architectures\":null,\"attention_bias\":true", "attention_bias", TL_E_UNSUPPORTED},
               {"\"model_type\":\"mistral\",\"architectures\":null,\"sliding_window\":0", "sliding_window", TL_E_FORMAT},
               {"\"model_type\":\"qwen3\",\"architectures\":null,\"layer_types\":[\"sliding_attention\",\"full_attention\"]",
                "use_sliding_window", TL_E_UNSUPPORTED},
               {"\"model_type\":\"smollm3\",\"architectures\":null,\"no_rope_layers\":[1]", "no_rope_layers is not a list of 2", TL_E_FORMAT},
               {"\"model_type\":\"smollm3\",\"architectures\":null,\"no_rope_layers\":[1,2]", "no_rope_layers[1] is neither 0 nor 1", TL_E_FORMAT},
               {"\"model_type\":\"smollm3\",\"architectures\":null,\"use_sliding_window\":true", "use_sliding_window true is not supported for smollm3",
                TL_E_UNSUPPORTED},
               {"\"architectures\":\"GemmaForCausalLM\"", "architectures is not a list of names", TL_E_FORMAT},
               {"\"hidden_act\":\"gelu\"", "gelu", TL_E_UNSUPPORTED},
               {"\"hidden_act\":5", "hidden_act is not text", TL_E_FORMAT},
               {"\"rope_theta\":1e-60", "rope_theta is not a positive number", TL_E_FORMAT},
               {"\"mlp_bias\":true", "mlp_bias", TL_E_UNSUPPORTED},
               {"\"use_sliding_window\":true", "use_sliding_window", TL_E_UNSUPPORTED},
               {"\"quantization_config\":{\"quant_method\":\"gptq\"}", "gptq", TL_E_UNSUPPORTED},
               {"\"partial_rotary_factor\":0.5", "partial_rotary_factor", TL_E_UNSUPPORTED},
               {"\"hidden_size\":\"many\"", "hidden_size", TL_E_FORMAT},
               {"\"num_hidden_layers\":-3", "num_hidden_layers", TL_E_FORMAT},
               {"\"num_key_value_heads\":3", "key/value heads", TL_E_SHAPE},
               {"\"head_dim\":9", "head_dim", TL_E_SHAPE},
               {"\"eos_token_id\":\"x\"", "eos_token_id", TL_E_FORMAT},
               {"\"num_hidden_layers\":4", "model.layers.2.input_layernorm.weight is missing", TL_E_FORMAT},
               {"\"tie_word_embeddings\":false", "lm_head.weight is missing", TL_E_FORMAT}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_hf("refused", &llama_sizes, "F32", TL_F32, cases[i].keys);
    refused(at("refused"), cases[i].status, cases[i].word);
    CHECK(strstr(tl_last_error(), "/refused/"), "the message names no file: %s", tl_last_error());
  }
  refused(at("nowhere"), TL_E_IO, "nowhere");
  refused(at("refused/config.json"), TL_E_FORMAT, "neither");
  write_text("refused/config.json", "{\"model_type\":");
  refused(at("refused"), TL_E_FORMAT, "not JSON");
  write_text("refused/config.json", "{\"model_type\":\"llama\"} {}");
  refused(at("refused"), TL_E_FORMAT, "not JSON (wrong at byte 23 of 25)");
  write_text("refused/config.json", "{\"rope_scaling\":{\"factor\":2,\"factor\":4}}");
  refused(at("refused"), TL_E_FORMAT, "key factor is there twice");
}

int main(void) {
  if (!temp_begin()) return 1;
  RUN(windows_by_keys);
  RUN(rotation_by_keys);
  RUN(rope_key_styles);
  RUN(rope_table_grows);
  RUN(refused_by_name);
  temp_end();
  return test_done();
}
