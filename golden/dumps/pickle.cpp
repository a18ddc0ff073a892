#include "golden/dumps/pickle.h"

#include <cmath>
#include <cstring>
#include <unordered_map>

#include "golden/dumps/pickle_objects.h"
#include "golden/dumps/pickle_opcodes.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

// Something on the stack: a number by itself, or a value of the tree. Marks are kept apart.
struct Item {
  const Value* value = nullptr;  // null: the number
  double number = 0;
};

class Machine {
 public:
  Machine(const std::string& file, const std::vector<std::byte>& stream, const FindStorage& find)
      : file_(file),
        stream_(stream),
        tree_(std::make_shared<Tree>(file)),
        objects_(file, *tree_, find, stream.size()) {}

  std::shared_ptr<Tree> run() {
    while (!step(byte())) {
    }
    if (stack_.size() != 1) damaged("ends with more than one value");
    tree_->root = node(stack_.back());
    return tree_;
  }

 private:
  [[noreturn]] void damaged(const std::string& what) const { pickle_damaged(file_, what); }
  [[noreturn]] void refuse(const std::string& what) const { pickle_refused(file_, what); }

  unsigned char byte() {
    if (at_ >= stream_.size()) damaged("is cut short");
    return static_cast<unsigned char>(stream_[at_++]);
  }
  std::uint64_t natural(int bytes) {
    std::uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= static_cast<std::uint64_t>(byte()) << (8 * i);
    return value;
  }
  std::string text(std::uint64_t bytes) {
    if (bytes > stream_.size() - at_) damaged("is cut short");
    std::string out(reinterpret_cast<const char*>(stream_.data()) + at_, bytes);
    at_ += bytes;
    return out;
  }
  std::string line() {
    std::string out;
    for (char c = static_cast<char>(byte()); c != '\n'; c = static_cast<char>(byte())) out += c;
    return out;
  }

  void push(const Value* value) { stack_.push_back({value, 0}); }
  void push_number(double number) { stack_.push_back({nullptr, number}); }
  void push_text(std::string text) {
    Value* value = tree_->make(Value::Kind::text);
    value->text = std::move(text);
    push(value);
  }
  Item pop() {
    if (stack_.size() <= floor()) damaged("takes from an empty stack");
    const Item item = stack_.back();
    stack_.pop_back();
    return item;
  }
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::vector<Item> pop_to_mark() {
    if (marks_.empty()) damaged("has no mark where one is needed");
    std::vector<Item> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  const Value* node(const Item& item) {
    if (item.value) return item.value;
    Value* value = tree_->make(Value::Kind::number);
    value->number = item.number;
    return value;
  }
  // The container just below what is added to it. Values are ours (the tree's), so they may be changed.
  Value* top(Value::Kind kind) {
    if (stack_.size() <= floor() || !stack_.back().value || stack_.back().value->kind != kind)
      damaged("adds to what is no list or dictionary");
    return const_cast<Value*>(stack_.back().value);
  }

  void append(Value* list, const std::vector<Item>& items) {
    for (const Item& item : items) {
      if (!item.value && list->items.empty()) {
        list->numbers.push_back(item.number);
        continue;
      }
      for (const double number : list->numbers) list->items.push_back(node({nullptr, number}));
      list->numbers.clear();
      list->items.push_back(node(item));
    }
  }
  void set_items(Value* dictionary, const std::vector<Item>& items) {
    if (items.size() % 2 != 0) damaged("has a key without a value");
    for (std::size_t i = 0; i < items.size(); i += 2) {
      std::string key;
      if (!items[i].value)
        key = std::to_string(static_cast<long long>(std::clamp(items[i].number, -9e15, 9e15)));
      else if (items[i].value->kind == Value::Kind::text)
        key = items[i].value->text;
      else
        key = "?";
      dictionary->members.emplace_back(std::move(key), node(items[i + 1]));
    }
  }
  const Value* tuple(const std::vector<Item>& items) {
    Value* list = tree_->make(Value::Kind::list);
    append(list, items);
    return list;
  }
  std::vector<Item> take(std::size_t count) {
    std::vector<Item> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }

  void global(const std::string& module, const std::string& name) {
    push(objects_.global(module + "." + name));
  }
  void stack_global() {
    const Item name = pop(), module = pop();
    if (!name.value || !module.value || name.value->kind != Value::Kind::text ||
        module.value->kind != Value::Kind::text)
      damaged("names something that is no text");
    global(module.value->text, name.value->text);
  }

  void persistent() {
    const Item item = pop();
    push(objects_.persistent(item.value));
  }
  void reduce() {
    const Item arguments = pop(), callee = pop();
    if (!callee.value || callee.value->kind != Value::Kind::opaque || !arguments.value ||
        arguments.value->kind != Value::Kind::list)
      damaged("calls what is no function");
    push(objects_.reduce(*callee.value, *arguments.value));
  }
  // State that an object is given after it was made. Values are ours (the tree's), so they may be changed.
  void build() {
    const Item state = pop();
    if (stack_.size() <= floor()) damaged("takes from an empty stack");
    if (stack_.back().value) objects_.build(*const_cast<Value*>(stack_.back().value), state.value);
  }

  double long_integer(std::uint64_t bytes) {
    if (bytes > 8) {
      text(bytes);
      return std::nan("");
    }
    std::uint64_t value = natural(static_cast<int>(bytes));
    if (bytes > 0 && bytes < 8 && (value >> (8 * bytes - 1))) value |= ~std::uint64_t{0} << (8 * bytes);
    return static_cast<double>(static_cast<std::int64_t>(value));
  }
  double big_endian_real() {
    std::uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) bits = bits << 8 | byte();
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  void get(std::uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) damaged("refers to what was never stored");
    stack_.push_back(found->second);
  }
  void put(std::uint64_t index) {
    if (stack_.size() <= floor()) damaged("stores from an empty stack");
    memo_[index] = stack_.back();
  }

  bool push_constant(unsigned char opcode) {
    switch (opcode) {
      case kNone:
        push(tree_->make(Value::Kind::null));
        return true;
      case kNewTrue:
        push_number(1);
        return true;
      case kNewFalse:
        push_number(0);
        return true;
      case kBinInt:
        push_number(static_cast<std::int32_t>(natural(4)));
        return true;
      case kBinInt1:
        push_number(static_cast<double>(natural(1)));
        return true;
      case kBinInt2:
        push_number(static_cast<double>(natural(2)));
        return true;
      case kLong1:
        push_number(long_integer(natural(1)));
        return true;
      case kBinFloat:
        push_number(big_endian_real());
        return true;
      case kShortBinUnicode:
      case kShortBinString:
      case kShortBinBytes:
        push_text(text(natural(1)));
        return true;
      case kBinUnicode:
      case kBinString:
      case kBinBytes:
        push_text(text(natural(4)));
        return true;
      case kEmptyDict:
        push(tree_->make(Value::Kind::dictionary));
        return true;
      case kEmptyList:
      case kEmptyTuple:
        push(tree_->make(Value::Kind::list));
        return true;
      default:
        return false;
    }
  }

  bool combine(unsigned char opcode) {
    switch (opcode) {
      case kAppend: {
        const Item item = pop();
        append(top(Value::Kind::list), {item});
        return true;
      }
      case kAppends: {
        const auto items = pop_to_mark();
        append(top(Value::Kind::list), items);
        return true;
      }
      case kSetItem: {
        const auto items = take(2);
        set_items(top(Value::Kind::dictionary), items);
        return true;
      }
      case kSetItems: {
        const auto items = pop_to_mark();
        set_items(top(Value::Kind::dictionary), items);
        return true;
      }
      case kTuple:
        push(tuple(pop_to_mark()));
        return true;
      case kTuple1:
      case kTuple2:
      case kTuple3:
        push(tuple(take(static_cast<std::size_t>(opcode - kTuple1 + 1))));
        return true;
      default:
        return false;
    }
  }

  // True at the end of the stream.
  bool step(unsigned char opcode) {
    if (push_constant(opcode) || combine(opcode)) return false;
    switch (opcode) {
      case kProto:
        if (const auto protocol = natural(1); protocol < 2 || protocol > 5)
          damaged("has an unknown protocol");
        return false;
      case kFrame:
        natural(8);
        return false;
      case kMark:
        marks_.push_back(stack_.size());
        return false;
      case kPop:
        pop();
        return false;
      case kPopMark:
        pop_to_mark();
        return false;
      case kDup: {
        if (stack_.size() <= floor()) damaged("takes from an empty stack");
        stack_.push_back(Item(stack_.back()));
        return false;
      }
      case kBinPut:
        put(natural(1));
        return false;
      case kLongBinPut:
        put(natural(4));
        return false;
      case kMemoize:
        put(memo_.size());
        return false;
      case kBinGet:
        get(natural(1));
        return false;
      case kLongBinGet:
        get(natural(4));
        return false;
      case kGlobal: {
        const std::string module = line(), name = line();
        global(module, name);
        return false;
      }
      case kStackGlobal:
        stack_global();
        return false;
      case kBinPersId:
        persistent();
        return false;
      case kReduce:
        reduce();
        return false;
      case kBuild:
        build();
        return false;
      case kStop:
        return true;
      default: {
        char code[8];
        std::snprintf(code, sizeof code, "0x%02x", opcode);
        refuse("holds the pickle instruction " + std::string(code) +
               ", which makes objects of classes or is unknown");
      }
    }
  }

  const std::string& file_;
  const std::vector<std::byte>& stream_;
  std::shared_ptr<Tree> tree_;
  PickleObjects objects_;
  std::size_t at_ = 0;
  std::vector<Item> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, Item> memo_;
};

}  // namespace

std::shared_ptr<Tree> read_pickle(const std::string& file, const std::vector<std::byte>& stream,
                                  const FindStorage& find_storage) {
  return Machine(file, stream, find_storage).run();
}

}  // namespace meshparity::dumps
