#pragma once

namespace CLI {
class App;
}

namespace rfseg::cli {

/// Each adds one verb to the program. Its callback does the work, throws Error on failure and
/// leaves the exit code of a partial success in `exit_code`.
void add_predict(CLI::App& app, int& exit_code);
void add_forward(CLI::App& app);
void add_preprocess(CLI::App& app);
void add_postprocess(CLI::App& app);
void add_info(CLI::App& app);
void add_convert(CLI::App& app);
void add_download(CLI::App& app);
void add_bench(CLI::App& app);
void add_eval(CLI::App& app);
void add_parity(CLI::App& app, int& exit_code);
void add_capture(CLI::App& app, int& exit_code);
void add_replay(CLI::App& app, int& exit_code);
void add_ablate(CLI::App& app, int& exit_code);
void add_completion(CLI::App& app);

}  // namespace rfseg::cli
