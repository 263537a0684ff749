// A prompt in, a picture out, in C++: no Python, no Keras, no kerasdiff.
//
//   kerasdiff export sampler            once, on any machine
//   make                                with the headers and library of TensorFlow's wheel
//   ./paint sampler "a red house and a pine tree" house.ppm [seed [steps [guidance]]]
//
// TensorFlow's C API runs the SavedModel; sampler/signature.json names the tensors.

#include <cstring>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tokenizer.h"

using std::string;

// What follows `"name": ` behind each of a path of names; enough for the JSON that export writes.
string Find(const string& json, const std::vector<string>& path) {
  size_t at = 0;
  for (const string& name : path) {
    at = json.find("\"" + name + "\": ", at);
    if (at == string::npos) throw std::runtime_error("signature.json has no " + name);
    at += name.size() + 4;
  }
  const bool text = json[at] == '"';
  return json.substr(at + text, json.find_first_of(text ? "\"" : ",\n}", at + 1) - at - text);
}

class Sampler {
 public:
  explicit Sampler(const string& folder) : json_(ReadFile(folder + "/signature.json")) {
    const char* tags[] = {"serve"};
    TF_SessionOptions* options = TF_NewSessionOptions();
    session_ = TF_LoadSessionFromSavedModel(options, nullptr, folder.c_str(), tags, 1, graph_,
                                            nullptr, status_);
    Check();
  }

  int Fact(const string& name) const { return std::stoi(Find(json_, {"tokens", "tokens", name})); }

  template <typename T>
  void Feed(const string& name, TF_DataType type, const std::vector<int64_t>& shape,
            const std::vector<T>& values) {
    const size_t bytes = values.size() * sizeof(T);
    TF_Tensor* tensor = TF_AllocateTensor(type, shape.data(), shape.size(), bytes);
    memcpy(TF_TensorData(tensor), values.data(), bytes);
    names_.push_back(Output("inputs", name)), values_.push_back(tensor);
  }

  TF_Tensor* Run() {
    const TF_Output output = Output("outputs", "images");
    TF_Tensor* images = nullptr;
    TF_SessionRun(session_, nullptr, names_.data(), values_.data(), names_.size(), &output, &images,
                  1, nullptr, 0, nullptr, status_);
    Check();
    return images;
  }

 private:
  TF_Output Output(const string& kind, const string& name) {
    const string tensor = Find(json_, {"signatures", "text_to_image", kind, name, "tensor"});
    const size_t colon = tensor.rfind(':');
    TF_Operation* operation = TF_GraphOperationByName(graph_, tensor.substr(0, colon).c_str());
    if (!operation) throw std::runtime_error("the graph has no " + tensor);
    return {operation, std::stoi(tensor.substr(colon + 1))};
  }

  void Check() {
    if (TF_GetCode(status_) != TF_OK) throw std::runtime_error(TF_Message(status_));
  }

  string json_;
  TF_Graph* graph_ = TF_NewGraph();
  TF_Status* status_ = TF_NewStatus();
  TF_Session* session_ = nullptr;
  std::vector<TF_Output> names_;
  std::vector<TF_Tensor*> values_;
};

void Paint(const string& folder, const string& prompt, const string& path, int64_t seed, int steps,
           float guidance) {
  Sampler sampler(folder);
  const Tokenizer tokenizer(folder + "/tokenizer");
  const auto pack = [&](const string& text) {
    std::vector<int> ids = tokenizer.Encode(text);
    const size_t length = sampler.Fact("length");
    if (ids.size() + 2 > length) throw std::runtime_error("the prompt is too long");
    ids.insert(ids.begin(), sampler.Fact("start"));
    ids.push_back(sampler.Fact("end"));
    ids.resize(length, sampler.Fact("pad"));
    return ids;
  };
  const int64_t length = sampler.Fact("length");
  sampler.Feed("tokens", TF_INT32, {1, length}, pack(prompt));
  sampler.Feed("negative_tokens", TF_INT32, {1, length}, pack(""));
  sampler.Feed("seed", TF_INT64, {}, std::vector<int64_t>{seed});
  sampler.Feed("num_steps", TF_INT32, {}, std::vector<int>{steps});
  sampler.Feed("guidance_scale", TF_FLOAT, {}, std::vector<float>{guidance});
  TF_Tensor* images = sampler.Run();  // uint8 (1, height, width, 3)
  std::ofstream file(path, std::ios::binary);
  file << "P6 " << TF_Dim(images, 2) << " " << TF_Dim(images, 1) << " 255\n";
  file.write(static_cast<const char*>(TF_TensorData(images)), TF_TensorByteSize(images));
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

int main(int argc, char** argv) try {
  if (argc < 4) throw std::runtime_error("usage: paint FOLDER PROMPT OUT.ppm [SEED [STEPS [GUIDANCE]]]");
  const auto given = [&](int place, const char* other) { return argc > place ? argv[place] : other; };
  Paint(argv[1], argv[2], argv[3], std::stoll(given(4, "1")), std::stoi(given(5, "10")),
        std::stof(given(6, "3")));
} catch (const std::exception& error) {
  const std::string message = error.what();  // TensorFlow's go on with where they arose
  std::cerr << "paint: " << message.substr(0, message.find('\n')) << "\n";
  return 1;
}
