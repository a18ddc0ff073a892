#include "golden/dumps/dump.h"

#include <algorithm>

#include "golden/dumps/formats.h"
#include "golden/dumps/patterns.h"
#include "golden/dumps/record.h"
#include "golden/dumps/zip.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

// Numbers take up to four times their text in memory ("1," becomes eight bytes).
constexpr std::uint64_t kMostText = std::uint64_t{128} << 20;

enum class Format { torch, npz, safetensors, hdf5, json, lines };

bool ends_with_any(const std::string& file, const std::vector<std::string>& ends) {
  return std::any_of(ends.begin(), ends.end(), [&](const std::string& end) {
    return file.size() >= end.size() && file.compare(file.size() - end.size(), end.size(), end) == 0;
  });
}

Format format_of(const std::string& file, const Bytes& bytes) {
  std::string head(std::min<std::uint64_t>(bytes.size(), 16), '\0');
  if (head.empty()) throw InputError(file + ": is empty");
  bytes.read(0, head.data(), head.size());
  if (head.compare(0, 4, "\x89HDF") == 0) return Format::hdf5;
  if (head.compare(0, 2, "PK") == 0) {
    const ZipFile zip(open_bytes(file));
    for (const std::string& name : zip.names())
      if (name.size() >= 8 && name.compare(name.size() - 8, 8, "data.pkl") == 0) return Format::torch;
    return Format::npz;
  }
  if (head.compare(0, 2, "\x80\x02") == 0 || head.compare(0, 2, "\x80\x04") == 0) return Format::torch;
  if (head.size() > 8 && head[8] == '{' && head[0] != '{') return Format::safetensors;
  const std::size_t at = head.find_first_not_of(" \t\r\n");
  if (at != std::string::npos && (head[at] == '{' || head[at] == '['))
    return ends_with_any(file, {".json"}) ? Format::json : Format::lines;
  throw InputError(file + ": is in no known format (HDF5, safetensors, npz, torch .pt, JSON Lines, JSON)");
}

std::string text_of(const Bytes& bytes, std::uint64_t begin, std::uint64_t end) {
  std::string text(end - begin, '\0');
  bytes.read(begin, text.data(), text.size());
  return text;
}

// Where the lines of a file begin and end, blank ones left out.
std::vector<std::pair<std::uint64_t, std::uint64_t>> find_lines(const Bytes& bytes) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> lines;
  std::uint64_t begin = 0;
  bool blank = true;
  std::string block;
  const auto close = [&](std::uint64_t end) {
    if (end - begin > kMostText)
      throw InputError(bytes.file() + ": line " + std::to_string(lines.size() + 1) +
                       ": is longer than 128 MiB");
    if (!blank) lines.emplace_back(begin, end);
    blank = true;
  };
  for (std::uint64_t at = 0; at < bytes.size(); at += block.size()) {
    block = text_of(bytes, at, std::min(bytes.size(), at + (1 << 20)));
    for (std::size_t i = 0; i < block.size(); ++i) {
      if (block[i] == '\n') {
        close(at + i);
        begin = at + i + 1;
      } else if (block[i] != ' ' && block[i] != '\r' && block[i] != '\t') {
        blank = false;
      }
    }
  }
  close(bytes.size());
  return lines;
}

class Source : public SampleSource {
 public:
  Source(std::string name, const std::vector<std::string>& files) : name_(std::move(name)) {
    std::vector<TreeRef> ranks;
    for (const std::string& file : files) add(file, ranks);
    if (!ranks.empty()) whole_.push_back(read_rank_dumps(ranks, notes_));
    if (!ranks.empty()) kind_ = "slime/miles train dump";
    if (units() == 0) throw InputError(name_ + ": holds no samples");
    format_ =
        kind_ + ", " + container_ + (files.size() > 1 ? ", " + std::to_string(files.size()) + " files" : "");
  }

  std::size_t units() const override { return whole_.size() + lines_.size(); }
  std::shared_ptr<const SampleBatch> load(std::size_t unit) const override {
    return unit < whole_.size() ? whole_[unit] : load_line(lines_[unit - whole_.size()]);
  }
  std::string name() const override { return name_; }
  std::string format() const override { return format_; }
  std::vector<std::string> notes() const override { return notes_; }

 private:
  struct Line {
    BytesRef bytes;
    std::uint64_t begin, end;
    std::size_t number;
  };

  static std::shared_ptr<const SampleBatch> load_line(const Line& line) {
    const std::string where = line.bytes->file() + ": line " + std::to_string(line.number);
    const TreeRef tree = read_json(where, text_of(*line.bytes, line.begin, line.end));
    return read_record(tree, *tree->root, where);
  }

  void add(const std::string& file, std::vector<TreeRef>& ranks) {
    const BytesRef bytes = open_bytes(file);
    const Format format = format_of(file, *bytes);
    if (format == Format::lines) {
      std::size_t number = 0;
      for (const auto& [begin, end] : find_lines(*bytes)) lines_.push_back({bytes, begin, end, ++number});
      container_ = "JSON Lines";
      if (kind_.empty() && !lines_.empty()) {
        const Line& line = lines_[0];
        kind_ = record_kind(*read_json(file + ": line 1", text_of(*bytes, line.begin, line.end))->root);
      }
      return;
    }
    const TreeRef tree = read_tree(file, format, *bytes);
    if (is_rank_dump(*tree->root)) return ranks.push_back(tree);
    if (kind_.empty()) kind_ = record_kind(*tree->root);
    whole_.push_back(read_record(tree, *tree->root, file));
  }

  TreeRef read_tree(const std::string& file, Format format, const Bytes& bytes) {
    switch (format) {
      case Format::torch:
        container_ = "torch .pt";
        return read_torch(file);
      case Format::npz:
        container_ = "npz";
        return read_npz(file);
      case Format::safetensors:
        container_ = "safetensors";
        return read_safetensors(file);
      case Format::hdf5:
        container_ = "HDF5";
        return read_hdf5(file);
      default:
        break;
    }
    container_ = "JSON";
    if (bytes.size() > kMostText)
      throw InputError(file + ": is larger than 128 MiB: write JSON Lines, one sample a line");
    return read_json(file, text_of(bytes, 0, bytes.size()));
  }

  std::string name_, format_, kind_, container_;
  std::vector<std::string> notes_;
  std::vector<std::shared_ptr<const SampleBatch>> whole_;
  std::vector<Line> lines_;
};

}  // namespace

std::shared_ptr<const SampleSource> open_dump(const std::string& argument) {
  return open_dump(argument, expand(argument));
}

std::shared_ptr<const SampleSource> open_dump(const std::string& name,
                                              const std::vector<std::string>& files) {
  return std::make_shared<Source>(name, files);
}

}  // namespace meshparity::dumps
