// One drawing: axes with ticks, lines, bars, marks, as inline SVG with a title and a description for readers
// that do not see it. Colours are the page's variables.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace meshparity::reports {

// From numbers to places along one side of a drawing.
struct Axis {
  double low = 0, high = 1;
  bool logarithmic = false;
  std::string label;
  // Where ticks stand, about `wanted` of them: 1, 2 or 5 times a power of ten, or powers of ten.
  std::vector<double> ticks(int wanted) const;
  double share(double value) const;  // 0 at low, 1 at high; not clamped
};
// "0.003", "1e-06", "120k".
std::string tick_text(double value);
// An axis that holds all values; from 0 where they do not span more than a factor `most_linear`, else
// logarithmic.
Axis axis_for(const std::vector<double>& values, std::string_view label, double most_linear = 60);

class Chart {
 public:
  Chart(std::string_view title, std::string_view description, Axis x, Axis y, double height = 300,
        double width = 920);
  void vertical(double x, std::string_view style, std::string_view label = "");
  void line(const std::vector<std::pair<double, double>>& points, std::string_view colour,
            double width = 1.6);
  void band(const std::vector<std::pair<double, double>>& lower,
            const std::vector<std::pair<double, double>>& upper, std::string_view colour);
  // From the foot of the drawing up to y; `title` is what a pointer over it shows.
  void bar(double from, double to, double y, std::string_view colour, std::string_view title);
  void dot(double x, double y, double radius, std::string_view colour, std::string_view title = "");
  void error_bar(double x, double low, double high, std::string_view colour);
  // Cells of one colour, as one path: lower left corners in numbers of the axes, all of one size.
  void cells(const std::vector<std::pair<double, double>>& corners, double width, double height,
             std::string_view colour);
  void diagonal();
  void key(const std::vector<std::pair<std::string, std::string>>& colours_and_names);
  std::string text() const;  // <figure> with the caption
  // Pixels between two numbers of the x axis.
  double pixels(double from, double to) const;

 private:
  double at_x(double x) const;
  double at_y(double y) const;
  std::string path(const std::vector<std::pair<double, double>>& points) const;
  std::string title_, description_, marks_;
  Axis x_, y_;
  double width_, height_;
};

}  // namespace meshparity::reports
