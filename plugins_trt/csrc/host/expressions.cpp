#include "expressions.h"

#include <stdexcept>

namespace adaptrt::host {

using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

namespace {

int64_t apply(DimensionOperation operation, int64_t first, int64_t second) {
  switch (operation) {
    case DimensionOperation::kSUM: return first + second;
    case DimensionOperation::kPROD: return first * second;
    case DimensionOperation::kMAX: return first > second ? first : second;
    case DimensionOperation::kMIN: return first < second ? first : second;
    case DimensionOperation::kSUB: return first - second;
    case DimensionOperation::kCEIL_DIV: return (first + second - 1) / second;
    case DimensionOperation::kFLOOR_DIV: return first / second;
    default: throw std::logic_error("an operation that the host does not know");
  }
}

}  // namespace

Expression::Expression(int64_t constant) {
  answers_.constant = true;
  answers_.value = constant;
  mImpl = &answers_;
}

Expression::Expression(std::string const& symbol) : symbol_(symbol) { mImpl = &answers_; }

Expression::Expression(DimensionOperation operation, Expression const& first, Expression const& second)
    : operation_(operation), first_(&first), second_(&second) {
  mImpl = &answers_;
}

std::string Expression::text() const {
  if (answers_.constant) {
    return std::to_string(answers_.value);
  }
  if (first_ == nullptr) {
    return symbol_;
  }
  std::string const sign = operation_ == DimensionOperation::kPROD  ? " * "
                           : operation_ == DimensionOperation::kSUM ? " + "
                                                                    : " ? ";
  return "(" + first_->text() + sign + second_->text() + ")";
}

int64_t Expression::value(std::map<std::string, int64_t> const& symbols) const {
  if (answers_.constant) {
    return answers_.value;
  }
  return first_ == nullptr ? symbols.at(symbol_) : apply(operation_, first_->value(symbols), second_->value(symbols));
}

IDimensionExpr const* ExpressionBuilder::axis(std::string const& text) {
  bool const isNumber = text.find_first_not_of("0123456789") == std::string::npos;
  return factory_.keep(isNumber ? std::make_unique<Expression>(static_cast<int64_t>(std::stoll(text)))
                                : std::make_unique<Expression>(text));
}

IDimensionExpr const* ExpressionBuilder::Factory::keep(std::unique_ptr<Expression> expression) {
  made.push_back(std::move(expression));
  return made.back().get();
}

IDimensionExpr const* ExpressionBuilder::Factory::constant(int64_t value) {
  return keep(std::make_unique<Expression>(value));
}

IDimensionExpr const* ExpressionBuilder::Factory::operation(DimensionOperation op, IDimensionExpr const& first,
                                                            IDimensionExpr const& second) {
  if (first.isConstant() && second.isConstant()) {
    return constant(apply(op, first.getConstantValue(), second.getConstantValue()));
  }
  return keep(
      std::make_unique<Expression>(op, static_cast<Expression const&>(first), static_cast<Expression const&>(second)));
}

IDimensionExpr const* ExpressionBuilder::Factory::declareSizeTensor(int32_t /*index*/, IDimensionExpr const& /*opt*/,
                                                                    IDimensionExpr const& /*upper*/) {
  return nullptr;
}

}  // namespace adaptrt::host
