// CLIP's byte pair encoding, for prompts in ASCII: text to the numbers of its tokens.

#pragma once

#include <cctype>
#include <climits>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using std::string;

inline string ReadFile(const string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return string(std::istreambuf_iterator<char>(file), {});
}

class Tokenizer {
 public:
  explicit Tokenizer(const string& folder) {
    // {"token": id, ...}; what is escaped as \uXXXX comes wrong, and in no prompt of ASCII.
    const string json = ReadFile(folder + "/vocab.json");
    for (size_t at = json.find('"'); at != string::npos; at = json.find('"', at)) {
      string token;
      for (++at; json[at] != '"'; ++at) token += json[at] == '\\' ? json[++at] : json[at];
      at = json.find(':', at) + 1;
      ids_[token] = std::stoi(json.substr(at, 12));
    }
    std::istringstream merges(ReadFile(folder + "/merges.txt"));
    string left, right, line;
    for (int rank = 0; std::getline(merges, line);)
      if (line.rfind("#version", 0) && std::istringstream(line) >> left >> right)
        ranks_[{left, right}] = rank++;
  }

  std::vector<int> Encode(const string& prompt) const {
    std::vector<int> ids;
    for (size_t at = 0; at < prompt.size();) {
      const auto kind = [&](size_t i) {
        const unsigned char c = prompt[i];
        if (c > 127) throw std::runtime_error("this small tokenizer knows ASCII alone");
        return isspace(c) ? 0 : isalpha(c) ? 1 : isdigit(c) ? 2 : 3;
      };
      size_t end = at + 1;  // letters and signs run on, digits stand alone
      while (end < prompt.size() && kind(end) == kind(at) && kind(at) != 2) ++end;
      for (const string ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
        if (Lower(prompt.substr(at, ending.size())) == ending) end = at + ending.size();
      if (kind(at)) EncodeWord(prompt.substr(at, end - at), &ids);
      at = end;
    }
    return ids;
  }

 private:
  static string Lower(string text) {
    for (char& c : text) c = tolower(c);
    return text;
  }

  void EncodeWord(const string& word, std::vector<int>* ids) const {
    std::vector<string> parts;
    for (char c : Lower(word)) parts.emplace_back(1, c);
    parts.back() += "</w>";
    while (true) {
      int best = INT_MAX, place = -1;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks_.find({parts[i], parts[i + 1]});
        if (found != ranks_.end() && found->second < best) best = found->second, place = i;
      }
      if (place < 0) break;
      parts[place] += parts[place + 1];
      parts.erase(parts.begin() + place + 1);
    }
    for (const string& part : parts) {
      if (!ids_.count(part)) throw std::runtime_error("the vocabulary has no " + part);
      ids->push_back(ids_.at(part));
    }
  }

  std::map<string, int> ids_;
  std::map<std::pair<string, string>, int> ranks_;
};
