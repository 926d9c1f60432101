// Damaged and lying files: each is one clear Error(kModel), at little cost.

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "checkpoint/checkpoint.h"
#include "checkpoint/pickle.h"
#include "checkpoint/safetensors_file.h"
#include "checkpoint/test_files.h"
#include "checkpoint/torch_file.h"
#include "checkpoint/zip_directory.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

namespace pk = test::pk;
using test::le;

void expect_call_refused(const std::function<void()>& function,
                         const std::vector<std::string>& words) {
  try {
    function();
    FAIL() << "accepted; expected: " << (words.empty() ? "" : words[0]);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kModel) << error.what();
    const std::string text = error.what();
    EXPECT_EQ(text.rfind("model.pth", 0), 0u) << text;
    for (const std::string& word : words) {
      EXPECT_NE(text.find(word), std::string::npos) << "'" << word << "' not in: " << text;
    }
  }
}

void expect_refused(const std::string& bytes, const std::vector<std::string>& words) {
  expect_call_refused([&] { test::open_bytes(bytes); }, words);
}

FileContents read_torch(const std::string& bytes) {
  return read_torch_file(MemorySource("model.pth", bytes));
}

// ---------------------------------------------------------------------------------- formats

TEST(Format, OtherFilesAreNamed) {
  expect_refused("", {"empty", "accepted"});
  expect_refused("\x80\x02}q.", {"before 1.6"});
  expect_refused("<!DOCTYPE html><html>", {"web page"});
  expect_refused("version https://git-lfs.github.com/spec/v1\n", {"Git LFS"});
  expect_refused("hello, this is text", {"no known checkpoint format", ".safetensors"});
  expect_call_refused([] { open_checkpoint("model.pth/none"); }, {"cannot open"});
  EXPECT_THROW(open_checkpoint("/dev/null"), Error);
  EXPECT_THROW(open_checkpoint("/proc"), Error);
}

// ---------------------------------------------------------------------------------- zip

TEST(Zip, TruncatedAnywhereIsRefused) {
  const std::string whole = test::read_data("torch/tiny_stripped.pth");
  for (std::size_t size = 0; size < whole.size(); size += 97) {
    EXPECT_THROW(test::open_bytes(whole.substr(0, size)), Error) << size;
  }
  for (std::size_t size = whole.size() - 40; size < whole.size(); ++size) {
    EXPECT_THROW(test::open_bytes(whole.substr(0, size)), Error) << size;
  }
  expect_refused(whole.substr(0, whole.size() / 2), {"truncated"});
}

TEST(Zip, WorksWithAndWithoutZip64) {
  test::ZipBuilder zip;
  zip.add({.name = "a/one", .bytes = "hello", .zip64 = true});
  zip.add({.name = "a/two", .bytes = ""});
  for (const bool end64 : {false, true}) {
    const MemorySource file("model.pth", zip.bytes(end64));
    const ZipDirectory directory(file);
    ASSERT_EQ(directory.entries().size(), 2u);
    const ZipEntry* one = directory.find("a/one");
    ASSERT_NE(one, nullptr);
    const uint64_t offset = directory.data_offset(*one);
    EXPECT_EQ(offset % 64, 0u);
    EXPECT_EQ(file.read_string(offset, one->size), "hello");
    EXPECT_EQ(directory.find("a/two")->size, 0u);
    EXPECT_EQ(directory.find("a/three"), nullptr);
  }
}

std::string zip_of(test::ZipItem pickle) {
  test::ZipBuilder zip;
  pickle.name = pickle.name.empty() ? "archive/data.pkl" : pickle.name;
  pickle.bytes = pk::whole(pk::dict({}));
  zip.add(std::move(pickle));
  zip.add("archive/version", "3\n");
  return zip.bytes();
}

TEST(Zip, EntriesThatLie) {
  expect_refused(zip_of({.method = 8}), {"data.pkl", "compressed (method 8)"});
  expect_refused(zip_of({.flags = 9}), {"encrypted"});
  expect_refused(zip_of({.claimed_size = 100'000}), {"does not fit"});
  expect_refused(zip_of({.claimed_size = 0xfffffff0}), {"does not fit"});
  expect_refused(zip_of({.claimed_size = std::numeric_limits<int64_t>::max(), .zip64 = true}),
                 {"does not fit"});
  expect_refused(zip_of({.claimed_offset = 100'000}), {"header outside"});
  expect_refused(zip_of({.claimed_offset = 7}), {"wrong local signature"});
  expect_refused(zip_of({.local_name = "archive/data.PKL"}), {"another name"});
  expect_refused(zip_of({.name = "archive/readme"}), {"without a data.pkl"});
}

TEST(Zip, DirectoryThatLies) {
  const std::string good = zip_of({});
  const auto at = [&](std::size_t back) { return good.size() - back; };
  const auto patched = [&](std::size_t offset, const std::string& bytes) {
    std::string bad = good;
    bad.replace(offset, bytes.size(), bytes);
    return bad;
  };
  const std::size_t end64 = at(22 + 20 + 56);
  expect_refused(patched(end64 + 32, le<uint64_t>(~uint64_t{0})), {"claims"});  // entries
  expect_refused(patched(end64 + 32, le<uint64_t>(3)), {"claims"});
  expect_refused(patched(end64 + 40, le<uint64_t>(~uint64_t{0})), {"outside"});  // size
  expect_refused(patched(end64 + 48, le<uint64_t>(~uint64_t{0})), {"outside"});  // offset
  expect_refused(patched(end64, "XXXX"), {"wrong signature"});
  expect_refused(patched(at(22 + 12), le<uint64_t>(~uint64_t{0})), {"zip64 end record"});
  test::ZipBuilder twice;
  twice.add("archive/data.pkl", pk::whole(pk::dict({})));
  twice.add("archive/data.pkl", pk::whole(pk::dict({})));
  expect_refused(twice.bytes(), {"twice"});
}

TEST(Zip, TorchScriptAndBigEndianAreNamed) {
  test::ZipBuilder script;
  script.add("archive/data.pkl", pk::whole(pk::dict({})));
  script.add("archive/constants.pkl", "");
  expect_refused(script.bytes(), {"TorchScript"});
  test::ZipBuilder big;
  big.add("archive/data.pkl", pk::whole(pk::dict({})));
  big.add("archive/byteorder", "big");
  expect_refused(big.bytes(), {"big-endian"});
}

TEST(Zip, StoragesThatShareBytes) {
  test::ZipBuilder zip;
  zip.add("archive/data.pkl",
          pk::whole(pk::dict({{"a", pk::tensor("FloatStorage", "0", 4, 0, {4}, {1})},
                              {"b", pk::tensor("FloatStorage", "1", 4, 0, {4}, {1})}})));
  std::string inner;  // an entry inside the bytes of another
  {
    test::ZipBuilder nested;
    nested.add("archive/data/1", std::string(16, '\0'));
    inner = nested.bytes();
  }
  zip.add("archive/data/0", inner);
  const std::string once = zip.bytes();
  const std::size_t at = once.find(inner);
  ASSERT_NE(at, std::string::npos);
  zip.add(
      {.name = "archive/data/1", .claimed_size = 16, .claimed_offset = static_cast<int64_t>(at)});
  expect_call_refused([&] { read_torch(zip.bytes()); }, {"overlap"});
}

// ---------------------------------------------------------------------------------- pickle

TEST(Pickle, ReadsPlainValues) {
  const std::string bytes =
      pk::whole(pk::dict({{"small", "K\x07"},
                          {"negative", pk::integer(-3)},
                          {"pi", std::string("G\x40\x09\x21\xfb\x54\x44\x2d\x18", 9)},
                          {"yes", pk::boolean(true)},
                          {"text", pk::str("é")},
                          {"list", pk::list({pk::integer(1), "N"})}}));
  const PickleReader pickle(bytes, "model.pth");
  const PickleNode& root = pickle.node(pickle.root());
  EXPECT_EQ(pickle.get(root, "small")->integer, 7);
  EXPECT_EQ(pickle.get(root, "negative")->integer, -3);
  EXPECT_DOUBLE_EQ(pickle.get(root, "pi")->real, 3.14159265358979312);
  EXPECT_EQ(pickle.get(root, "yes")->integer, 1);
  EXPECT_EQ(pickle.get(root, "text")->text, "é");
  EXPECT_EQ(pickle.get(root, "list")->items.size(), 2u);
  EXPECT_EQ(pickle.get(root, "none"), nullptr);
}

TEST(Pickle, NothingIsExecuted) {
  // os.system("...") and the like become opaque values, wherever they stand.
  const std::string call =
      pk::global("os", "system") + pk::tuple({pk::str("touch /tmp/pwned")}) + "R";
  const std::string bytes =
      pk::whole(pk::dict({{"args", call}, {"model", pk::dict({{"x", call}})}}));
  const PickleReader pickle(bytes, "model.pth");
  EXPECT_EQ(pickle.get(pickle.node(pickle.root()), "args")->kind, PickleKind::kOpaque);
  expect_refused(test::torch_zip(call), {"object of class 'system'"});
}

TEST(Pickle, BombsAreCutShort) {
  const auto refuse = [](const std::string& body, const std::vector<std::string>& words) {
    expect_call_refused([&] { PickleReader(std::string("\x80\x02") + body + ".", "model.pth"); },
                        words);
  };
  std::string deep;  // a list in a list in a list ...
  for (int i = 0; i < 1'100'000; ++i) deep += ']';
  refuse(deep + std::string(1'099'999, 'a'), {"more than 1000000 values"});
  // Within the limits depth costs no stack.
  const std::string shallow =
      "\x80\x02" + std::string(500'000, ']') + std::string(499'999, 'a') + ".";
  EXPECT_NO_THROW(PickleReader(shallow, "model.pth"));
  refuse("r" + le(0xffffffffu), {"memo slot"});
  refuse("Nr" + le(0xfffffff0u), {"memo slot 4294967280"});
  refuse("j" + le(5u), {"memo slot 5, which is empty"});
  refuse("X" + le(0xffffffffu) + "abc", {"truncated"});
  refuse(std::string("\x8d", 1) + le(~uint64_t{0}) + "abc", {"truncated"});
  // The billion laughs: each list holds the one before ten times.
  std::string laughs = "]q" + std::string(1, '\0');  // 0 = POP: only the last list stays
  for (char level = 1; level < 100; ++level) {
    laughs += std::string("0](");
    for (int i = 0; i < 10; ++i) laughs += std::string("h") + static_cast<char>(level - 1);
    laughs += std::string("eq") + level;
  }
  EXPECT_NO_THROW(PickleReader(std::string("\x80\x02") + laughs + ".", "model.pth"));
  expect_refused(
      test::torch_zip(pk::dict({{"args", pk::name_space(pk::dict({{"class_names", laughs}}))},
                                {"model", pk::dict({})}})),
      {"no RF-DETR checkpoint"});
  std::string many = "N";
  for (int i = 0; i < 8'100'000; ++i) many += '2';  // DUP
  refuse(many, {"refers to more than"});
}

TEST(Pickle, NonsenseIsRefused) {
  for (const std::string body :
       {"",         "a",        "s",        "u",    "t",     "e",      "R",  "b",   "Q",
        "\x85",     "\x86",     "(\x87",    "}(Nu", "N(Ns",  "KaKbs",  "0",  "1",   "h\x01",
        "cmodule",  "\x80\x01", "\x80\x09", "P0\n", "\x93",  "NN\x93", "NQ", "(tQ", "NNa",
        "K\x01(Ne", "(NNNd",    "\x81",     "\x92", "q\x01", "\x94"}) {
    EXPECT_THROW(PickleReader(std::string("\x80\x02") + body + ".", "model.pth"), Error)
        << testing::PrintToString(body);
  }
  EXPECT_THROW(PickleReader("", "model.pth"), Error);
  EXPECT_THROW(PickleReader("\x80\x02N", "model.pth"), Error);  // no end
}

// ---------------------------------------------------------------------------------- tensors

void expect_tensor_refused(const std::string& tensor, const std::vector<std::string>& words) {
  expect_call_refused(
      [&] {
        read_torch(test::torch_zip(pk::dict({{"model", pk::dict({{"x.weight", tensor}})}})));
      },
      words);
}

TEST(TensorView, OutsideItsStorage) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const auto view = [](int64_t numel, int64_t offset, Shape shape, Shape stride) {
    return pk::tensor("FloatStorage", "0", numel, offset, shape, stride);
  };
  EXPECT_NO_THROW(read_torch(test::torch_zip(pk::dict({{"x", view(16, 0, {16}, {1})}}))));
  expect_tensor_refused(view(16, 1, {16}, {1}),
                        {"x.weight", "from element 1 on reaches out of its storage of 16"});
  expect_tensor_refused(view(16, -1, {4}, {1}), {"x.weight"});
  expect_tensor_refused(view(16, 0, {4}, {-1}), {"no tensor can have"});
  expect_tensor_refused(view(16, 0, {-4}, {1}), {"no tensor can have"});
  expect_tensor_refused(view(16, kHuge, {4}, {1}), {"x.weight"});
  expect_tensor_refused(view(16, 0, {4, 4}, {kHuge, kHuge}), {"no tensor can have"});
  expect_tensor_refused(view(16, 0, {kHuge, kHuge}, {0, 0}), {"no tensor can have"});
  expect_tensor_refused(view(16, 0, {1 << 30}, {0}), {"repeats a storage"});
  expect_tensor_refused(view(17, 0, {16}, {1}), {"has 64 bytes, 17 elements"});
  expect_tensor_refused(view(kHuge, 0, {16}, {1}), {"has 64 bytes"});
  expect_tensor_refused(pk::tensor("DoubleStorage", "0", 16, 0, {16}, {1}), {"float64 need more"});
  expect_tensor_refused(pk::tensor("FloatStorage", "7", 16, 0, {16}, {1}), {"data/7' is missing"});
  expect_tensor_refused(pk::tensor("FloatStorage", "0", 16, 0, {16}, {}), {"differ in length"});
  expect_tensor_refused(pk::tensor("FloatStorage", "0", 16, 0, Shape(17, 1), Shape(17, 1)),
                        {"17 dimensions"});
}

TEST(TensorView, UnknownElementTypesAreNamedWhereTheyMatter) {
  test::NamedShapes tensors = test::stock_tensors("seg-nano");
  std::vector<std::pair<std::string, std::string>> items;
  for (const auto& [name, shape] : tensors) {
    const bool odd = name == "query_feat.weight";
    if (odd) continue;
    items.emplace_back(name, pk::tensor("FloatStorage", "0", 1, 0, shape, Shape(shape.size(), 0)));
  }
  items.emplace_back("query_feat.weight",
                     pk::tensor("QInt8Storage", "0", 1, 0, {1300, 256}, {0, 0}));
  expect_refused(test::torch_zip(pk::dict(items)), {"query_feat.weight"});
}

TEST(TensorView, NotFiniteWeightsAreRefusedWhenRead) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    std::string storage(64, '\0');
    storage.replace(0, 4, std::string(reinterpret_cast<const char*>(&value), 4));
    const Checkpoint checkpoint =
        test::open_bytes(test::torch_zip(test::state_of(test::stock_tensors("nano")), storage));
    expect_call_refused([&] { checkpoint.weights->read("class_embed.weight"); },
                        {"class_embed.weight", "NaN or an infinity"});
  }
}

TEST(TensorView, AFewBytesDescribeNoHugeModel) {
  test::NamedShapes tensors = test::stock_tensors("xlarge");
  const std::string layer = "transformer.decoder.layers.0.";
  test::NamedShapes more;
  for (const auto& [name, shape] : tensors) {
    if (!name.starts_with(layer)) continue;
    for (int i = 5; i < 40; ++i) {
      more.emplace_back(
          "transformer.decoder.layers." + std::to_string(i) + "." + name.substr(layer.size()),
          shape);
    }
  }
  tensors.insert(tensors.end(), more.begin(), more.end());
  const std::string bytes = test::torch_zip(pk::dict(
      {{"model", test::state_of(tensors)},
       {"model_config",
        pk::dict({{"num_windows", pk::integer(1)},
                  {"num_queries", pk::integer(300)},
                  {"out_feature_indexes", pk::list({pk::integer(3), pk::integer(6), pk::integer(9),
                                                    pk::integer(12)})}})}}));
  expect_refused(bytes, {"weights in", "bytes"});
}

// ---------------------------------------------------------------------------------- safetensors

std::string safetensors(const std::string& header, std::size_t data) {
  return le<uint64_t>(header.size()) + header + std::string(data, '\0');
}

FileContents read_st(const std::string& bytes) {
  return read_safetensors_file(MemorySource("model.pth", bytes));
}

TEST(Safetensors, ReadsWhatFits) {
  const FileContents contents = read_st(safetensors(
      R"({"__metadata__":{"a":"b"},"y":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]},)"
      R"("x":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"z":{"dtype":"I8","shape":[0],"data_offsets":[12,12]}})",
      12));
  ASSERT_EQ(contents.records.size(), 3u);
  EXPECT_EQ(contents.records[0].name, "x");
  EXPECT_EQ(contents.records[1].name, "y");
  EXPECT_EQ(contents.config.metadata.at("a"), "b");
}

TEST(Safetensors, HeadersThatLie) {
  const auto refuse = [](const std::string& header, std::size_t data,
                         const std::vector<std::string>& words) {
    expect_call_refused([&] { read_st(safetensors(header, data)); }, words);
  };
  expect_call_refused([] { read_st(le(~uint64_t{0}) + "{}"); }, {"claims"});
  expect_call_refused([] { read_st(le(uint64_t{3}) + "{}"); }, {"claims"});
  expect_call_refused([] { read_st("abc"); }, {"truncated"});
  refuse("{", 0, {"no valid JSON"});
  refuse("[]", 0, {"no JSON object"});
  refuse("{\"x\":" + std::string(100'000, '['), 0, {"nests deeper"});
  refuse(R"({"x":5})", 0, {"'x' is not described"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, {"bytes 0 to 4 of 3"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 8, {"bytes 4 to 0"});
  refuse(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 8, {"not described"});
  refuse(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 8, {"shape [2]", "4 bytes"});
  refuse(R"({"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 8, {"no list of sizes"});
  refuse(R"({"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 8,
         {"too large"});
  refuse(
      R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"y":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
      8, {"overlap"});
  refuse(
      R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
      8, {"two tensors are named 'x'"});
  // As often as they like where it means nothing.
  EXPECT_EQ(
      read_st(
          safetensors(R"({"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4))
          .records.size(),
      1u);
}

TEST(Safetensors, ACutHeaderIsNamedByTheFilesName) {
  const std::string cut = le(uint64_t{0x6680}) + R"({"x":{"dtype":"F32","shape":[1],)";
  EXPECT_TRUE(looks_like_safetensors(MemorySource("model.safetensors", cut)));
  EXPECT_FALSE(looks_like_safetensors(MemorySource("model.pth", cut)));
}

TEST(Safetensors, TruncatedAnywhereIsRefused) {
  const std::string header = test::read_data("safetensors/hf_saved.header");
  for (std::size_t size = 0; size < header.size(); size += 61) {
    EXPECT_THROW(test::open_bytes(header.substr(0, size)), Error) << size;
  }
  EXPECT_THROW(test::open_bytes(header), Error);  // no data
}

}  // namespace
}  // namespace rfseg
