# How every target of the project is built: the language level, the warnings, the sanitizers, and where results go.
include(GNUInstallDirs)

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin) # plugins and the agent are found next to the program

# The sanitizer presets' build type: asserts are on, stacks have line numbers, and it compiles in half the time of -O2 -g.
set(CMAKE_C_FLAGS_SANITIZED "-O1 -g1" CACHE STRING "C flags of the build type Sanitized")
set(CMAKE_CXX_FLAGS_SANITIZED "-O1 -g1" CACHE STRING "C++ flags of the build type Sanitized")

set(PAGEFERRY_SANITIZER "" CACHE STRING "Sanitizers for all but the agent: address;undefined, thread, or nothing")
option(PAGEFERRY_FUZZ "Build the fuzz targets (clang only)" OFF)

find_program(CCACHE ccache)
if(CCACHE)
    set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE})
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

find_package(Threads REQUIRED)

add_library(pageferry_flags INTERFACE)
target_include_directories(pageferry_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(pageferry_flags INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64 PAGEFERRY_VERSION="${PROJECT_VERSION}")
target_compile_options(pageferry_flags INTERFACE
    -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wcast-align -Wformat=2 -Wundef -fno-omit-frame-pointer
    $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Woverloaded-virtual -Wold-style-cast -Wno-missing-field-initializers>)
target_link_libraries(pageferry_flags INTERFACE Threads::Threads)
if(PAGEFERRY_SANITIZER)
    list(JOIN PAGEFERRY_SANITIZER "," _sanitizers)
    target_compile_options(pageferry_flags INTERFACE -fsanitize=${_sanitizers} -fno-sanitize-recover=all)
    target_link_options(pageferry_flags INTERFACE -fsanitize=${_sanitizers})
    if("thread" IN_LIST PAGEFERRY_SANITIZER AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # Boost.Asio has a fence that TSan does not follow; the io_context it is in has one thread.
        target_compile_options(pageferry_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-tsan>)
    endif()
endif()
if(PAGEFERRY_FUZZ)
    target_compile_options(pageferry_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all)
    target_link_options(pageferry_flags INTERFACE -fsanitize=address,undefined)
endif()

# What the sanitizer presets need built: unit and conformance tests and the plugins, not the programs once more.
add_custom_target(sanitized_tests)

# pageferry_library(NAME SOURCES... [LINK LIBS...])
function(pageferry_library name)
    cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
    add_library(${name} STATIC ${ARG_UNPARSED_ARGUMENTS})
    target_link_libraries(${name} PUBLIC pageferry_flags ${ARG_LINK})
endfunction()

# pageferry_program(NAME SOURCES... [LINK LIBS...])
function(pageferry_program name)
    cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
    add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
    target_link_libraries(${name} PRIVATE pageferry_flags ${ARG_LINK})
endfunction()

# pageferry_transport_plugin(SCHEME SOURCES... [LINK LIBS...]): pageferry-transport-SCHEME.so, exporting one symbol.
function(pageferry_transport_plugin scheme)
    cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
    set(name pageferry-transport-${scheme})
    add_library(${name} MODULE ${ARG_UNPARSED_ARGUMENTS})
    add_dependencies(sanitized_tests ${name})
    set_target_properties(${name} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden C_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
    target_link_libraries(${name} PRIVATE pageferry_flags ${ARG_LINK})
    target_link_options(${name} PRIVATE -Wl,--exclude-libs,ALL)
    install(TARGETS ${name} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/pageferry)
endfunction()

# pageferry_test(NAME SOURCES... [LINK LIBS...]): a GoogleTest program, its tests known to CTest by their own names and labelled
# with their folder below tests/ (unit, conformance, integration).
function(pageferry_test name)
    cmake_parse_arguments(ARG "" "" "LINK;PROPERTIES" ${ARGN})
    find_package(GTest REQUIRED)
    include(GoogleTest)
    add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
    target_link_libraries(${name} PRIVATE pageferry_flags ${ARG_LINK} GTest::gtest GTest::gtest_main)
    file(RELATIVE_PATH label ${CMAKE_SOURCE_DIR}/tests ${CMAKE_CURRENT_SOURCE_DIR})
    string(REGEX REPLACE "/.*" "" label "${label}")
    gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 120 LABELS ${label} ${ARG_PROPERTIES})
    if(label MATCHES "^(unit|conformance)$")
        add_dependencies(sanitized_tests ${name})
    endif()
endfunction()

# pageferry_fuzz(NAME SOURCES... [LINK LIBS...]): a libFuzzer program, with the fuzz preset only.
function(pageferry_fuzz name)
    if(NOT PAGEFERRY_FUZZ)
        return()
    endif()
    cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
    add_executable(${name} ${ARG_UNPARSED_ARGUMENTS})
    target_link_libraries(${name} PRIVATE pageferry_flags ${ARG_LINK})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()
