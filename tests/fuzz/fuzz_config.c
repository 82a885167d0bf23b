// SPDX-License-Identifier: MIT
/* A model's config.json, which is generation_config.json too. */
#include <math.h>

#include "fuzz.h"
#include "llama/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char config[] =
      "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_act\":\"silu\","
      "\"hidden_size\":8,\"intermediate_size\":16,\"num_attention_heads\":2,"
      "\"num_hidden_layers\":1,\"num_key_value_heads\":1,\"vocab_size\":10,"
      "\"max_position_embeddings\":16,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0}";
  moon_llama_config out;
  moon_err err = {0};
  const char *text = size ? (const char *)data : "";
  moon_status status = moon_llama_config_parse(&out, text, size, text, size, &err);
  check_message(status, &err);
  if (status == MOON_OK && out.d_head < 4096) {
    double *frequencies = malloc((size_t)(out.d_head / 2 + 1) * sizeof *frequencies);
    moon_llama_inverse_frequencies(&out, frequencies);
    free(frequencies);
  }
  memset(&err, 0, sizeof err);
  status = moon_llama_config_parse(&out, config, sizeof config - 1, text, size, &err);
  check_message(status, &err);
  return 0;
}
