// What a call gives: a value, or an error that says what was got, what was expected and what to do.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <utility>
#include <variant>

namespace adaptrt {

// Who can mend it; the classes of `adaptrt.runtime.errors`.
enum class ErrorKind {
  bundle,   // the exported folder is missing, damaged, from another version, or reaches outside itself
  input,    // an array or knob value is not what the bundle declares
  budget,   // a budget makes no sense, or the bundle cannot obey it
  backend,  // ONNX Runtime is missing, refuses the graph, or failed while running it
};

inline const char* name_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::bundle: return "bundle";
    case ErrorKind::input: return "input";
    case ErrorKind::budget: return "budget";
    case ErrorKind::backend: return "backend";
  }
  return "backend";
}

// One line of text.
struct Error {
  ErrorKind kind;
  std::string text;
};

// A value or an error. Look with `if (result)`, or at `result.error()`.
template <class Value>
class [[nodiscard]] Expected {
 public:
  Expected(Value value) : content_(std::in_place_index<0>, std::move(value)) {}
  Expected(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

  explicit operator bool() const { return content_.index() == 0; }
  Value& operator*() & { return std::get<0>(content_); }
  const Value& operator*() const& { return std::get<0>(content_); }
  Value&& operator*() && { return std::get<0>(std::move(content_)); }
  Value* operator->() { return &std::get<0>(content_); }
  const Value* operator->() const { return &std::get<0>(content_); }
  const Error& error() const { return std::get<1>(content_); }

 private:
  std::variant<Value, Error> content_;
};

// Nothing, or an error.
struct Done {};

// Inside the library errors travel as exceptions; every public function turns them into values by `guarded`.
class Failure : public std::exception {
 public:
  Failure(ErrorKind kind, std::string text) : error_{kind, std::move(text)} {}
  const Error& error() const { return error_; }
  const char* what() const noexcept override { return error_.text.c_str(); }

 private:
  Error error_;
};

template <class Value, class Call>
Expected<Value> guarded(Call&& call) {
  try {
    return Expected<Value>(call());
  } catch (const Failure& failure) {
    return failure.error();
  } catch (const std::bad_alloc&) {
    return Error{ErrorKind::backend, "memory ran out; feed a smaller batch"};
  } catch (const std::exception& error) {
    return Error{ErrorKind::backend, std::string("got ") + error.what() + ", expected none of that; report it"};
  }
}

}  // namespace adaptrt
