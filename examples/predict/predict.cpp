// Prints what a model finds in a picture: predict MODEL PICTURE
#include <rfseg/rfseg.h>

#include <cstdio>

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL PICTURE\n", argv[0]);
    return 2;
  }
  const rfseg::Predictor predictor(rfseg::Model::load(argv[1]));
  const rfseg::Image image = rfseg::read_image(argv[2]);
  const rfseg::Detections detections = predictor.predict(image.view());
  for (const rfseg::Detection& object : detections.items) {
    const std::string& name = predictor.class_names().at(static_cast<std::size_t>(object.class_id));
    std::printf("%s %.3f, box %.0f %.0f %.0f %.0f, %llu pixels\n", name.c_str(), object.score,
                object.box_xyxy[0], object.box_xyxy[1], object.box_xyxy[2], object.box_xyxy[3],
                object.mask ? static_cast<unsigned long long>(object.mask->area()) : 0ull);
  }
} catch (const rfseg::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return static_cast<int>(error.code());
}
