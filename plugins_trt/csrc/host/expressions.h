// Dimension expressions over symbols, as TensorRT hands to getOutputShapes at build time.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

namespace adaptrt::host {

class Expression final : public nvinfer1::IDimensionExpr {
 public:
  explicit Expression(int64_t constant);
  explicit Expression(std::string const& symbol);
  Expression(nvinfer1::DimensionOperation operation, Expression const& first, Expression const& second);
  ~Expression() noexcept override = default;

  // "T", "64" or "(N * h)".
  std::string text() const;
  int64_t value(std::map<std::string, int64_t> const& symbols) const;

 private:
  struct Answers final : public nvinfer1::apiv::VDimensionExpr {
    bool constant = false;
    int64_t value = 0;
    bool isConstant() const override { return constant; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
  };

  Answers answers_;
  std::string symbol_;
  nvinfer1::DimensionOperation operation_{};
  Expression const* first_ = nullptr;
  Expression const* second_ = nullptr;
};

class ExpressionBuilder final : public nvinfer1::IExprBuilder {
 public:
  ExpressionBuilder() { mImpl = &factory_; }
  ~ExpressionBuilder() noexcept override = default;

  // A number becomes a constant, anything else a symbol.
  nvinfer1::IDimensionExpr const* axis(std::string const& text);

 private:
  struct Factory final : public nvinfer1::apiv::VExprBuilder {
    std::vector<std::unique_ptr<Expression>> made;
    nvinfer1::IDimensionExpr const* keep(std::unique_ptr<Expression> expression);
    nvinfer1::IDimensionExpr const* constant(int64_t value) override;
    nvinfer1::IDimensionExpr const* operation(nvinfer1::DimensionOperation op, nvinfer1::IDimensionExpr const& first,
                                              nvinfer1::IDimensionExpr const& second) override;
    nvinfer1::IDimensionExpr const* declareSizeTensor(int32_t index, nvinfer1::IDimensionExpr const& opt,
                                                      nvinfer1::IDimensionExpr const& upper) override;
  };

  Factory factory_;
};

}  // namespace adaptrt::host
